# SPDX-License-Identifier: Apache-2.0
"""What this device may run: both TUF repositories must agree (Uptane's partial order of work).

1. Refresh the director's metadata for this device, in a trusted folder of its own (TUF specification 5.3 to 5.6).
2. Read the assignment: tenant, device and profile must be ours, the counter not below the highest one seen,
   at most one target.
3. Only if that target is given: refresh the image repository, and find the target there through its delegations.
4. Length and hashes must equal the director's; the release must be a bundle for this profile.

Everything else is refused with a cause. python-tuf's client is used as it is.
"""

from collections.abc import Iterator
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # tuf re-exports without saying so
from tuf.api.metadata import TargetFile as TufTarget  # type: ignore[attr-defined]
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from device_agent.adapters.https import ServerConnection, reason_of
from device_agent.adapters.identity import DataFolder
from device_agent.core.identity import Identity
from device_agent.core.orders import Order, TargetFile
from device_agent.errors import TrustRefusedError, storage_failed
from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError, TrustError, UnreachableError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.tuf_custom import (
    DIRECTOR_REPOSITORY,
    IMAGE_REPOSITORY,
    Assignment,
    ReleaseCustom,
    read_assignment,
    read_target_custom,
)

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (ExpiredMetadataError, "metadata-expired"),
    (UnsignedMetadataError, "metadata-unsigned"),
    (BadVersionNumberError, "metadata-rollback"),
    (LengthOrHashMismatchError, "metadata-mismatch"),
    (DownloadLengthMismatchError, "metadata-oversized"),
    (RepositoryError, "metadata-invalid"),
)
_HINT = "nothing is installed and what runs goes on; the repository's owner must sign correct metadata"
_NOT_FOUND = 404
_OK = 200


class TufTrust:
    """Both repositories, as one device sees them. Not for two threads at once."""

    def __init__(self, folder: DataFolder, identity: Identity, connection: ServerConnection) -> None:
        self._folder = folder
        self._identity = identity
        self._fetcher = _Fetcher(connection)
        self._server_url = connection.server_url

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on.

        Raises:
            TrustRefusedError: metadata or order is refused.
            UnreachableError: the server does not answer.
            StorageError: verified metadata cannot be stored.
            InputError: the device's certificates or trusted roots cannot be used.
        """
        try:
            return self._check(seen_counter)
        except (RepositoryError, DownloadLengthMismatchError) as error:
            raise refused_metadata(error) from error
        except DownloadHTTPError as error:
            raise UnreachableError(
                f"the server {self._server_url} answered {error.status_code} to a request for metadata",
                hint="check the server's log; the agent tries again by itself",
            ) from error
        except DownloadError as error:
            own = error.__cause__
            if isinstance(own, EdgeFleetError):  # a fault of this device's own, such as a lost certificate
                raise own from own.__cause__
            raise UnreachableError(
                f"the server {self._server_url} does not answer: {reason_of(error.__cause__ or error)}",
                hint="check the server's address and the network; the agent tries again by itself",
            ) from error
        except TrustRefusedError:
            raise
        except TrustError as error:  # a custom field that breaks the contract
            raise TrustRefusedError("metadata-invalid", error.message, hint=error.hint) from error
        except OSError as error:
            raise storage_failed("store verified metadata", error) from error

    def _check(self, seen_counter: int) -> Order:
        self._updater(DIRECTOR_REPOSITORY, f"director/{self._identity.device}/metadata/").refresh()
        targets = _verified_targets(self._folder.trust / DIRECTOR_REPOSITORY)
        assignment = read_assignment(targets.unrecognized_fields)
        check_assignment(assignment, self._identity, seen_counter)
        if not targets.targets:
            return Order(assignment.counter)
        if len(targets.targets) > 1:
            raise _refused("assignment-ambiguous", f"the director lists {len(targets.targets)} targets, expected one")
        (ordered,) = targets.targets.values()
        return self._agree(assignment, ordered)

    def _agree(self, assignment: Assignment, ordered: TufTarget) -> Order:
        image = self._updater(IMAGE_REPOSITORY, "image/metadata/")
        image.refresh()
        found = image.get_targetinfo(ordered.path)
        if found is None:
            raise _refused("not-in-image-repository", f"'{ordered.path}' is not in the image repository")
        if (found.length, found.hashes) != (ordered.length, ordered.hashes):
            raise _refused("mismatch", f"director and image repository differ in length or hashes of '{ordered.path}'")
        release = read_target_custom(found.unrecognized_fields.get("custom"))
        return _order(assignment, found, check_release(release, found, self._identity))

    def _updater(self, repository: str, path: str) -> Updater:
        metadata, root = self._folder.trust / repository, self._folder.root_metadata(repository)
        metadata.mkdir(parents=True, exist_ok=True)
        bootstrap = _read_root(root)
        try:
            return Updater(str(metadata), f"{self._server_url}/{path}", fetcher=self._fetcher, bootstrap=bootstrap)
        except RepositoryError as error:
            raise FileMissingError(
                f"the trusted root '{root.name}' is damaged: {error}", hint="enrol the device again"
            ) from error


def refused_metadata(error: Exception) -> TrustRefusedError:
    """Name the cause of a refusal by python-tuf."""
    cause = next(cause for kind, cause in _CAUSES if isinstance(error, kind))
    return TrustRefusedError(cause, f"metadata is refused: {error}", hint=_HINT)


def check_assignment(assignment: Assignment, identity: Identity, seen_counter: int) -> None:
    """Refuse an assignment that is not for this device, or older than one seen.

    Raises:
        TrustRefusedError: with the cause ``wrong-tenant``, ``wrong-device``, ``wrong-profile`` or
            ``assignment-rollback``.
    """
    for field in ("tenant", "device", "profile"):
        got, expected = getattr(assignment, field), getattr(identity, field)
        if got != expected:
            raise _refused(f"wrong-{field}", f"the assignment is for the {field} '{got}', expected '{expected}'")
    if assignment.counter < seen_counter:
        raise _refused(
            "assignment-rollback",
            f"the assignment has the counter {assignment.counter}, {seen_counter} was seen before",
        )


def check_release(custom: object, target: TufTarget, identity: Identity) -> ReleaseCustom:
    """Refuse a target that is no bundle for this profile, or none that can be checked.

    Raises:
        TrustRefusedError: with the cause ``not-a-bundle``, ``wrong-profile``, ``mismatch`` or ``too-large``.
    """
    if not isinstance(custom, ReleaseCustom):
        raise _refused("not-a-bundle", f"'{target.path}' is no bundle")
    if custom.profile != identity.profile:
        raise _refused("wrong-profile", f"'{target.path}' is for '{custom.profile}', expected '{identity.profile}'")
    if "sha256" not in target.hashes:
        raise _refused("mismatch", f"'{target.path}' is listed without a SHA-256")
    if target.length > BUNDLE_LIMIT_BYTES:
        raise _refused("too-large", f"'{target.path}' has {target.length} bytes, the limit is {BUNDLE_LIMIT_BYTES}")
    return custom


def _order(assignment: Assignment, target: TufTarget, release: ReleaseCustom) -> Order:
    sha256 = target.hashes["sha256"]
    folder, separator, name = target.path.rpartition("/")
    return Order(
        counter=assignment.counter,
        release=RunningRelease(name=release.name, version=release.version, bundle_sha256=sha256),
        target=TargetFile(f"{folder}{separator}{sha256}.{name}", sha256, target.length),
        policy=release.device_policy,
        compat_hash=release.compat_hash,
    )


class _Fetcher(FetcherInterface):
    """python-tuf's way to the server, over the device's own connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def _fetch(self, url: str) -> Iterator[bytes]:
        status, pieces = self._connection.read(url.removeprefix(self._connection.server_url))
        if status != _OK:
            for _ in pieces:
                pass
            raise DownloadHTTPError(f"the server answered {status}", status)
        return pieces


def _verified_targets(trusted: Path) -> Targets:
    """Return the top-level targets that a refresh has just verified: they carry the assignment."""
    return Metadata[Targets].from_file(str(trusted / "targets.json")).signed


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileMissingError(f"the trusted root '{path.name}' is missing", hint="enrol the device again") from error


def _refused(cause: str, message: str) -> TrustRefusedError:
    return TrustRefusedError(cause, message, hint=_HINT)
