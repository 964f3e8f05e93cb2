# SPDX-License-Identifier: Apache-2.0
"""What of a verified order this device takes: made out to it, files under their own names, one bundle a name."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from device_agent.core.identity import Identity
from device_agent.core.orders.release_orders import SignedSoftware, TargetFile, Wanted
from device_agent.errors import TrustRefusedError
from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.names import bundle_target_path
from edgefleet.contracts.software import SOFTWARE_NAME, software_target_path
from edgefleet.contracts.tuf_custom import Assignment, ReleaseCustom, SettingsCustom, SoftwareCustom, TargetCustom

SETTINGS_LIMIT_BYTES = 64 << 10
_SHA256 = re.compile("[0-9a-f]{64}")
HINT = "nothing is installed and what runs goes on; the repository's owner must sign correct metadata"


class Listed(NamedTuple):
    """A target that both repositories describe alike."""

    path: str
    sha256: str | None
    size_bytes: int
    custom: TargetCustom


class Sorted(NamedTuple):
    """The bundles of an order, sorted by name, its settings and its software."""

    wanted: tuple[Wanted, ...] = ()
    settings: Listed | None = None
    software: SignedSoftware | None = None


def refused(cause: str, message: str) -> TrustRefusedError:
    """Return a refusal with the one hint that all have."""
    return TrustRefusedError(cause, message, hint=HINT)


def check_assignment(assignment: Assignment, identity: Identity, seen_counter: int) -> None:
    """Refuse an assignment that is not for this device, or older than one seen.

    Raises:
        TrustRefusedError: with the cause ``wrong-tenant``, ``wrong-device``, ``wrong-profile`` or
            ``assignment-rollback``.
    """
    for field in ("tenant", "device", "profile"):
        got, expected = getattr(assignment, field), getattr(identity, field)
        if got != expected:
            raise refused(f"wrong-{field}", f"the assignment is for the {field} '{got}', expected '{expected}'")
    if assignment.counter < seen_counter:
        raise refused(
            "assignment-rollback",
            f"the assignment has the counter {assignment.counter}, {seen_counter} was seen before",
        )


def sort_listed(listed: Sequence[Listed], identity: Identity) -> Sorted:
    """Tell bundles, settings and software apart, and check each.

    Raises:
        TrustRefusedError: as :func:`_wanted`; or ``assignment-ambiguous`` for two bundles of one name, or two files of
            settings or software.
    """
    bundles: dict[str, Wanted] = {}
    settings: list[Listed] = []
    software: list[SignedSoftware] = []
    for target in listed:
        if isinstance(target.custom, SettingsCustom):
            settings.append(_settings(target))
        elif isinstance(target.custom, SoftwareCustom):
            software.append(_software(target, target.custom))
        else:
            wanted = _wanted(target, identity)
            if bundles.setdefault(wanted.release.name, wanted) != wanted:
                raise _ambiguous(f"bundles of '{wanted.release.name}'")
    for found, what in ((settings, "files of settings"), (software, "wheel sets")):
        if len(found) > 1:
            raise _ambiguous(what)
    wanted_now = tuple(bundles[name] for name in sorted(bundles))
    return Sorted(wanted_now, settings[0] if settings else None, software[0] if software else None)


def _ambiguous(what: str) -> TrustRefusedError:
    return refused("assignment-ambiguous", f"the director lists two {what}, expected one")


def hashed_path(path: str, sha256: str) -> str:
    """Return where the file of a target path lies: its name begins with its hash (consistent snapshots)."""
    folder, separator, name = path.rpartition("/")
    return f"{folder}{separator}{sha256}.{name}"


def _wanted(target: Listed, identity: Identity) -> Wanted:
    """Refuse a target that is no bundle for this profile, or none that can be checked.

    Raises:
        TrustRefusedError: with the cause ``not-a-bundle``, ``wrong-profile``, ``wrong-path``, ``mismatch`` or
            ``too-large``.
    """
    release = target.custom
    if not isinstance(release, ReleaseCustom):
        raise refused("not-a-bundle", f"'{target.path}' is no bundle")
    if release.profile != identity.profile:
        raise refused("wrong-profile", f"'{target.path}' is for '{release.profile}', expected '{identity.profile}'")
    expected = bundle_target_path(release.name, release.version, release.profile)
    if target.path != expected:  # else a name could be signed for by those who may not
        raise refused("wrong-path", f"'{target.path}' is signed as '{release.name}', expected '{expected}'")
    file = _file(target)
    return Wanted(
        release=RunningRelease(name=release.name, version=release.version, bundle_sha256=file.sha256),
        target=file,
        policy=release.device_policy,
        compat_hash=release.compat_hash,
    )


def _software(target: Listed, custom: SoftwareCustom) -> SignedSoftware:
    """Refuse a wheel set under any other name than software's, for which only its own approvers may sign.

    Raises:
        TrustRefusedError: with the cause ``wrong-path``, ``mismatch`` or ``too-large``.
    """
    expected = software_target_path(custom.version, custom.machine, custom.python)
    if (custom.name, target.path) != (SOFTWARE_NAME, expected):
        raise refused("wrong-path", f"'{target.path}' is signed as software '{custom.name}', expected '{expected}'")
    file = _file(target)
    release = RunningRelease(name=custom.name, version=custom.version, bundle_sha256=file.sha256)
    return SignedSoftware(release, file, custom.machine, custom.python)


def _file(target: Listed) -> TargetFile:
    if target.size_bytes > BUNDLE_LIMIT_BYTES:
        raise refused("too-large", f"'{target.path}' has {target.size_bytes} bytes, the limit is {BUNDLE_LIMIT_BYTES}")
    sha256 = _sha256(target)
    return TargetFile(hashed_path(target.path, sha256), sha256, target.size_bytes)


def _settings(target: Listed) -> Listed:
    if target.size_bytes > SETTINGS_LIMIT_BYTES:
        limit = f"the limit is {SETTINGS_LIMIT_BYTES}"
        raise refused("too-large", f"'{target.path}' has {target.size_bytes} bytes, {limit}")
    _sha256(target)
    return target


def _sha256(target: Listed) -> str:
    if target.sha256 is None:
        raise refused("mismatch", f"'{target.path}' is listed without a SHA-256")
    if _SHA256.fullmatch(target.sha256) is None:  # files get their names from it
        raise refused("mismatch", f"'{target.path}' is listed with {target.sha256[:80]!r}, which is no SHA-256")
    return target.sha256
