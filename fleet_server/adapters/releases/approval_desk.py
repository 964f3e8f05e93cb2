# SPDX-License-Identifier: Apache-2.0
"""Where approvals come in: a proposal gathers signatures, and at its threshold the release is published."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import ConflictError, EdgeFleetError, TrustError
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.releases.image_repository import ImageRepository
from fleet_server.adapters.releases.installed_profiles import installed_profile
from fleet_server.adapters.releases.release_store import ReleaseRecord, ReleaseStore, find_release
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.private_files import write_file
from fleet_server.adapters.storage.schema import release
from fleet_server.core.trust.delegation import (
    APPROVAL_LIFETIME,
    ReleaseTarget,
    acceptance_target,
    add_release,
    check_expiry,
    describe_differences,
    file_target,
    production_role,
    read_targets,
    release_targets,
)
from fleet_server.core.trust.tuf_types import Metadata, Targets

_LOG = logging.getLogger(__name__)


class ApprovalDesk:
    """Checks proposals against what the server would build itself, and publishes at the threshold."""

    def __init__(
        self, database: Database, images: ImageRepository, releases: ReleaseStore, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._images = images
        self._releases = releases
        self._clock = clock

    def propose(self, name: str, version: str, data: bytes, actor: str) -> ReleaseRecord:
        """Take delegated metadata with one more approval; publish the release once the threshold is met.

        Raises:
            TrustError: it is not the release's metadata, or an approval is missing, unknown or wrong.
            ConflictError: another approver's proposal is there, and this one is not built on it.
        """
        with self._releases.changing:
            return self._propose(name, version, data, actor)

    def _propose(self, name: str, version: str, data: bytes, actor: str) -> ReleaseRecord:
        role, proposed = production_role(name), read_targets(data, "the proposal")
        check_expiry(proposed.signed, datetime.fromtimestamp(self._clock(), UTC) + APPROVAL_LIFETIME)
        self._check_content(name, version, proposed.signed)
        earlier = self._releases.proposal(name, version)
        if earlier is not None:
            _check_continues(read_targets(earlier, "the earlier proposal"), proposed)
        top = read_targets(self._images.newest("targets") or b"", "the targets metadata")
        signed, threshold = _count_approvals(top.signed, role, proposed)
        with self._database.write() as connection:
            changed = update(release).where(release.c.name == name, release.c.version == version)
            connection.execute(changed.values(proposal=data, state="awaiting-approval"))
            append_audit(
                connection,
                at=self._clock(),
                actor=actor,
                action="release-signed",
                subject=f"{name} {version}",
                detail=f"{signed} of {threshold} approvals",
            )
        if signed >= threshold:
            self._publish_approved(name, version, data)
        with self._database.read() as connection:
            return find_release(connection, name, version, top.signed)

    def finish_approvals(self) -> None:
        """After a crash: publish what had its threshold, and mark what was published."""
        with self._database.read() as connection:
            rows = connection.execute(select(release).where(release.c.state == "awaiting-approval")).fetchall()
        for row in rows:
            try:
                self._finish(row.name, row.version, bytes(row.proposal))
            except EdgeFleetError as error:  # its approvers changed since, or a file is gone: the others go on
                _LOG.warning("release %s %s stays unapproved: %s", row.name, row.version, error)

    def _finish(self, name: str, version: str, data: bytes) -> None:
        proposed = read_targets(data, "the proposal")
        current = self._images.newest(production_role(name))
        if current is not None and read_targets(current, "the newest metadata").signed == proposed.signed:
            with self._database.write() as connection:
                _mark_approved(connection, name, version, self._clock())
            return
        top = read_targets(self._images.newest("targets") or b"", "the targets metadata")
        signed, threshold = _count_approvals(top.signed, production_role(name), proposed)
        if signed >= threshold:
            self._publish_approved(name, version, data)

    def _publish_approved(self, name: str, version: str, data: bytes) -> None:
        policy = self._releases.pinned_policy(name, version)
        for file in self._releases.files(name, version):
            target = file_target(file, policy)
            self._images.add_file(file.path, target.path, target.sha256)
            if isinstance(file, Bundle):
                self._add_acceptance(file)

        def mark(connection: Connection) -> None:
            _mark_approved(connection, name, version, self._clock())

        self._images.publish({production_role(name): data}, also=mark)

    def _add_acceptance(self, bundle: Bundle) -> None:
        target, examples = acceptance_target(bundle.manifest), bundle.manifest.acceptance
        if target is None or examples is None:
            return
        extracted = self._releases.staging_path(f"{target.sha256}.npz")
        write_file(extracted, bundle.read(examples.path))
        self._images.add_file(extracted, target.path, target.sha256)

    def _check_content(self, name: str, version: str, proposed: Targets) -> None:
        """Refuse a proposal that is not exactly the newest published metadata plus this release."""
        newest = self._images.newest(production_role(name))
        base = read_targets(newest, "the newest metadata").signed if newest is not None else None
        own = add_release(base, self._targets(name, version), expires=proposed.expires)
        differences = describe_differences(own, proposed)
        if differences:
            raise TrustError(
                f"the proposal is not the newest metadata plus {name} {version}: {'; '.join(differences)}",
                hint="run 'edgefleet releases approve' again: another release may have been published meanwhile",
            )

    def _targets(self, name: str, version: str) -> list[ReleaseTarget]:
        files, policy = self._releases.files(name, version), self._releases.pinned_policy(name, version)
        return release_targets(files, policy, installed_profile)


def _count_approvals(top: Targets, role: str, proposed: Metadata[Targets]) -> tuple[int, int]:
    try:
        result = top.get_verification_result(role, proposed.signed_bytes, proposed.signatures)
    except ValueError as error:
        raise TrustError(
            f"nobody may approve releases of this product: there is no delegation '{role}'",
            hint="make it: edgefleet keys delegate PRODUCT",
        ) from error
    strangers = set(proposed.signatures) - set(result.signed)
    if strangers or not result.signed:
        raise TrustError(
            f"the proposal has no valid approval of an approver, or a signature by another key: {sorted(strangers)}",
            hint="sign with the key that 'edgefleet keys delegate' names",
        )
    return len(result.signed), result.threshold


def _check_continues(earlier: Metadata[Targets], proposed: Metadata[Targets]) -> None:
    same_base = earlier.signed.version == proposed.signed.version
    if same_base and earlier.signed_bytes != proposed.signed_bytes:
        raise ConflictError(
            "another approver's proposal is waiting, and this one differs from it", hint="run the approval again"
        )
    if same_base and not set(earlier.signatures) <= set(proposed.signatures):
        raise ConflictError("this proposal lacks an approval that was there", hint="run the approval again")


def _mark_approved(connection: Connection, name: str, version: str, now: float) -> None:
    changed = update(release).where(release.c.name == name, release.c.version == version)
    connection.execute(changed.values(state="approved", approved_at=now))
    append_audit(connection, at=now, actor="server", action="release-approved", subject=f"{name} {version}")
