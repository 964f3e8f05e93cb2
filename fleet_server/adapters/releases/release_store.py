# SPDX-License-Identifier: Apache-2.0
"""Releases: uploaded bundles and a policy (draft), a proposal that approvers sign, and then a published release."""

import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from anyio import open_file, to_thread
from sqlalchemy import Select, delete, insert, select
from sqlalchemy.engine import Connection, Row

from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES
from edgefleet.contracts.errors import BundleError, ConflictError, NotFoundError, StorageError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.policy import PinnedPolicy, read_policy
from edgefleet.contracts.software import SOFTWARE_NAME
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.releases.image_repository import ImageRepository
from fleet_server.adapters.releases.installed_profiles import installed_profile
from fleet_server.adapters.releases.release_files import open_release_file
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.schema import release, release_bundle
from fleet_server.core.trust.delegation import ReleaseFile, file_target, production_role, read_targets
from fleet_server.core.trust.release_rules import check_files
from fleet_server.core.trust.tuf_types import Targets


@dataclass(frozen=True)
class Draft:
    """What makes a draft release."""

    name: str
    version: str
    policy_bytes: bytes
    policy: PinnedPolicy
    files: tuple[ReleaseFile, ...]


class BundleRecord(Fact, frozen=True, kw_only=True):
    """One bundle of a release; of software, one wheel set, whose ``profile`` is its machine and Python."""

    profile: str
    sha256: str
    size_bytes: int
    target_path: str


class ReleaseRecord(Fact, frozen=True, kw_only=True):
    """A release as the API shows it; ``state`` is draft, awaiting-approval or approved."""

    name: str
    version: str
    state: str
    policy_sha256: str
    created_at: float
    approved_at: float | None
    signatures: int
    threshold: int
    bundles: tuple[BundleRecord, ...]


class ReleaseStore:
    """Takes bundles, wheel sets and policies in, and carries a release to its publication."""

    def __init__(
        self, database: Database, images: ImageRepository, staging_dir: Path, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._images = images
        self._staging_dir = staging_dir
        self._clock = clock
        #: Held while a release is replaced or approved, so that what is signed is what is published.
        self.changing = threading.RLock()
        staging_dir.mkdir(parents=True, exist_ok=True)
        for left_over in staging_dir.glob(".*.part"):  # of uploads that a crash cut off
            left_over.unlink(missing_ok=True)

    def bundle_path(self, sha256: str) -> Path:
        """Return where an uploaded bundle lies."""
        return self._staging_dir / f"{sha256}.bundle"

    def staging_path(self, file_name: str) -> Path:
        """Return where a file waits before it is published."""
        return self._staging_dir / file_name

    async def receive_bundle(self, sha256: str, pieces: AsyncIterator[bytes]) -> ReleaseFile:
        """Stream an upload to disk, verify it as a bundle or a wheel set, and keep it under its hash.

        Raises:
            BundleError: it is too large, neither of them, or not the file that was announced.
            StorageError: the disk is full.
        """
        temporary = self._staging_dir / f".{sha256}.{os.urandom(4).hex()}.part"
        try:
            await _write_pieces(temporary, pieces)
            bundle = await to_thread.run_sync(open_release_file, temporary)
            if bundle.sha256 != sha256:
                raise BundleError(
                    f"the upload has SHA-256 {bundle.sha256}, expected {sha256}", hint="upload the file again"
                )
            temporary.rename(self.bundle_path(sha256))
        except OSError as error:
            raise StorageError(
                f"cannot store the upload: {error.strerror or error}", hint="check the server's free space"
            ) from error
        else:
            return bundle
        finally:
            temporary.unlink(missing_ok=True)

    def publish(self, bundle_hashes: Sequence[str], policy_bytes: bytes, actor: str) -> tuple[str, str]:
        """Make a draft release of uploaded bundles and a policy; nothing is signed. Return its name and version.

        Raises:
            NotFoundError: a bundle was not uploaded.
            BundleError, PolicyError: they do not make one release.
            ConflictError: the release exists with another content.
        """
        policy = read_policy(policy_bytes, source="the policy")
        files = [self._uploaded(sha256) for sha256 in bundle_hashes]
        name, version = check_files(files, policy.policy)
        with self.changing, self._database.write() as connection:
            known = connection.execute(_one(name, version)).first()
            if known is not None and known.state == "approved":
                raise ConflictError(f"release {name} {version} is approved already", hint="publish under a new version")
            _store_draft(connection, Draft(name, version, policy_bytes, policy, tuple(files)), self._clock())
            append_audit(
                connection,
                at=self._clock(),
                actor=actor,
                action="release-published",
                subject=f"{name} {version}",
                detail=f"{len(files)} {'wheel sets' if name == SOFTWARE_NAME else 'bundles'}, policy {policy.sha256}",
            )
        return name, version

    def proposal(self, name: str, version: str) -> bytes | None:
        """Return the proposal that waits for more approvals, or None."""
        data = self._row(name, version).proposal
        return None if data is None else bytes(data)

    def policy(self, name: str, version: str) -> bytes:
        """Return a release's policy file."""
        return bytes(self._row(name, version).policy)

    def files(self, name: str, version: str) -> list[ReleaseFile]:
        """Return a release's bundles or wheel sets, verified again."""
        with self._database.read() as connection:
            rows = _bundle_rows(connection, name, version)
        return [open_release_file(self.bundle_path(row.sha256)) for row in rows]

    def pinned_policy(self, name: str, version: str) -> PinnedPolicy:
        """Return a release's policy and its hash."""
        return read_policy(self.policy(name, version), source="the release's policy")

    def _uploaded(self, sha256: str) -> ReleaseFile:
        path = self.bundle_path(sha256)
        if not path.exists():
            raise NotFoundError(f"no bundle with SHA-256 {sha256} was uploaded", hint="upload it first")
        return open_release_file(path)

    def _row(self, name: str, version: str) -> Row[Any]:
        with self._database.read() as connection:
            row = connection.execute(_one(name, version)).first()
        if row is None:
            raise _unknown(name, version)
        return row


async def _write_pieces(path: Path, pieces: AsyncIterator[bytes]) -> None:
    """Write an upload to disk, durably, as long as it stays below a bundle's limit."""
    size_bytes = 0
    async with await open_file(path, "wb") as stream:
        async for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > BUNDLE_LIMIT_BYTES:
                raise BundleError(
                    f"the upload is over the limit of {BUNDLE_LIMIT_BYTES} bytes", hint="make a smaller bundle"
                )
            await stream.write(piece)
        await stream.flush()
        await to_thread.run_sync(os.fsync, stream.wrapped.fileno())


def list_releases(connection: Connection, top: Targets) -> list[ReleaseRecord]:
    """Return all releases, the newest first."""
    rows = connection.execute(select(release.c.name, release.c.version).order_by(release.c.created_at.desc()))
    return [find_release(connection, row.name, row.version, top) for row in rows.fetchall()]


def find_release(connection: Connection, name: str, version: str, top: Targets) -> ReleaseRecord:
    """Return one release; ``top`` says how many approvals its product needs.

    Raises:
        NotFoundError: there is no such release.
    """
    row = connection.execute(_one(name, version)).first()
    if row is None:
        raise _unknown(name, version)
    signed = len(read_targets(row.proposal, "the proposal").signatures) if row.proposal else 0
    bundles = tuple(
        BundleRecord(profile=b.profile, sha256=b.sha256, size_bytes=b.size_bytes, target_path=b.target_path)
        for b in _bundle_rows(connection, name, version)
    )
    return ReleaseRecord(
        name=row.name,
        version=row.version,
        state=row.state,
        policy_sha256=row.policy_sha256,
        created_at=row.created_at,
        approved_at=row.approved_at,
        signatures=signed,
        threshold=approval_threshold(top, name),
        bundles=bundles,
    )


def approval_threshold(top: Targets, product: str) -> int:
    """Return how many approvals a product's releases need; 0: nobody may approve it yet."""
    roles = top.delegations.roles if top.delegations is not None and top.delegations.roles is not None else {}
    role = roles.get(production_role(product))
    return 0 if role is None else role.threshold


def _store_draft(connection: Connection, draft: Draft, now: float) -> None:
    key = {"name": draft.name, "version": draft.version}
    for table in (release_bundle, release):
        connection.execute(delete(table).where(table.c.name == draft.name, table.c.version == draft.version))
    connection.execute(
        insert(release).values(
            state="draft", policy=draft.policy_bytes, policy_sha256=draft.policy.sha256, created_at=now, **key
        )
    )
    for file in draft.files:
        target = file_target(file, draft.policy, installed_profile)
        needs = msgspec.json.encode(target.needs).decode()
        row = {"needs": needs, "sha256": target.sha256, "size_bytes": target.size_bytes, "target_path": target.path}
        connection.execute(insert(release_bundle).values(profile=target.kind_of_device, **row, **key))


def _one(name: str, version: str) -> Select[Any]:
    return select(release).where(release.c.name == name, release.c.version == version)


def _bundle_rows(connection: Connection, name: str, version: str) -> Sequence[Row[Any]]:
    return connection.execute(
        select(release_bundle)
        .where(release_bundle.c.name == name, release_bundle.c.version == version)
        .order_by(release_bundle.c.profile)
    ).fetchall()


def _unknown(name: str, version: str) -> NotFoundError:
    return NotFoundError(f"there is no release {name} {version}", hint="see: edgefleet releases list")
