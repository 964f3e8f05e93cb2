# SPDX-License-Identifier: Apache-2.0
"""How the record is written down, so that agents up to two schemas older can go on with it, and newer ones again.

Two texts are saved together. The *base* is the record as schema 1 (EdgeFleet 0.1) knows it: whoever is older than
this agent reads it and leaves the rest alone. The *extension* is this agent's whole record, kept under its schema's
number, with the hash of the base that it goes with.

=====================================  ============================================================================
the base is found                      what it means
=====================================  ============================================================================
with the mark, and our hash fits       this schema wrote last: the extension is the record
with the mark, another schema's fits   an agent of that schema wrote last: the base is true, and our extension adds
                                       what the base cannot say (recalls, settings, what applications rely on)
with the mark, and no hash fits        the disk changed it: :class:`DamagedRecordError`
without the mark                       an agent of schema 1 wrote last: the same as for another schema
=====================================  ============================================================================

The mark is one blank before the JSON text, which no reader of JSON minds and no agent of schema 1 writes.
"""

from typing import NamedTuple, TypeVar

import msgspec

from device_agent.core.life.record import DeviceRecord, Fault, Progress, Quarantined
from device_agent.core.life.release_set import Member, ReleaseSet, first_release
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.names import Sha256
from edgefleet.contracts.policy import AcceptancePin, DevicePolicy

#: Grows with each change of :class:`~device_agent.core.life.record.DeviceRecord` that an older agent could not read.
SCHEMA = 2
_MARK = " "


class DamagedRecordError(ValueError):
    """What is saved is no record, or not the one that was written."""


class BaseProgress(Fact, frozen=True, kw_only=True):
    """Progress as schema 1 knows it."""

    attempts_left: Natural = 0
    unexplained_left: int = 0
    requests: Natural = 0
    failed: Natural = 0
    non_finite: Natural = 0
    compared: Natural = 0
    elapsed_s: float = 0.0


class BaseShadowRule(Fact, frozen=True, kw_only=True):
    """The rule of a shadow as schema 1 knows it."""

    samples: Natural = 50
    limit_s: float = 3600.0


class BaseTrialRule(Fact, frozen=True, kw_only=True):
    """The rule of a trial as schema 1 knows it."""

    requests: Natural = 200
    minimum_s: float = 3600.0
    limit_s: float = 7 * 86400.0
    crash_limit: Natural = 1
    non_finite_limit: Natural = 0
    failed_limit: Natural = 0
    unexplained_limit: Natural = 5


class BasePolicy(Fact, frozen=True, kw_only=True):
    """A device's policy as schema 1 knows it."""

    acceptance: AcceptancePin | None = None
    shadow: BaseShadowRule = BaseShadowRule()
    trial: BaseTrialRule = BaseTrialRule()


class BaseRecord(Fact, frozen=True, kw_only=True):
    """The record of schema 1; its fields are as they were, for good."""

    status: str = "idle"
    counter: Natural = 0
    order_counter: Natural = 0
    active: RunningRelease | None = None
    previous: RunningRelease | None = None
    candidate: RunningRelease | None = None
    compat_hash: str = ""
    policy: BasePolicy = BasePolicy()
    progress: BaseProgress = BaseProgress()
    quarantine: tuple[Sha256, ...] = ()
    fault: Fault | None = None
    reported: tuple[str, ...] = ()
    boot_id: str = ""
    clean_stop: bool = False
    changed_at: float = 0.0


class Saved(NamedTuple):
    """What lies on the disk: the base's text, this schema's extension (or none) with its base's hash, and the hashes
    that the extensions of other schemas name.
    """

    base: str
    extension: str = ""
    base_sha256: str = ""
    other_sha256s: tuple[str, ...] = ()


def encode(record: DeviceRecord) -> Saved:
    """Return the texts of a record."""
    base = _MARK + msgspec.json.encode(to_base(record)).decode()
    return Saved(base, msgspec.json.encode(record).decode(), sha256_hex(base.encode()))


def decode(saved: Saved) -> DeviceRecord:
    """Return the record that was saved, by this agent or by an older one.

    Raises:
        DamagedRecordError: the texts are no record, or the disk changed them.
    """
    try:
        base = msgspec.json.decode(saved.base, type=BaseRecord)
        extension = msgspec.json.decode(saved.extension, type=DeviceRecord) if saved.extension else None
    except msgspec.DecodeError as error:
        raise DamagedRecordError(str(error)) from error
    found = sha256_hex(saved.base.encode())
    if extension is not None and saved.base_sha256 == found:
        if to_base(extension) != base:
            raise DamagedRecordError("base and extension differ")
        return extension
    if saved.base.startswith(_MARK) and found not in saved.other_sha256s:
        raise DamagedRecordError("its hash is another one than was written")
    return from_base(base, extension)


def to_base(record: DeviceRecord) -> BaseRecord:
    """Return what an agent of schema 1 can know of a record: of a set, the release that is tried, or the first."""
    trying = record.trying or record.candidate
    name = trying[0].release.name if trying else None
    member = trying[0] if trying else Member(release=_NOBODY)
    return BaseRecord(
        status=record.status,
        counter=record.counter,
        order_counter=record.order_counter,
        active=_named(record.active, name),
        previous=_named(record.previous, name),
        candidate=trying[0].release if trying else None,
        compat_hash=member.compat_hash,
        policy=_narrowed(member.policy, BasePolicy),
        progress=_narrowed(record.progress.get(name or "", Progress()), BaseProgress),
        quarantine=tuple(dict.fromkeys(entry.bundle_sha256 for entry in record.quarantine)),
        fault=record.fault,
        reported=record.reported,
        boot_id=record.boot_id,
        clean_stop=record.clean_stop,
        changed_at=record.changed_at,
    )


def from_base(base: BaseRecord, carried: DeviceRecord | None = None) -> DeviceRecord:
    """Return the record that an agent of schema 1 left; ``carried`` is what this agent wrote before it."""
    before = carried or DeviceRecord()
    policy = msgspec.convert(msgspec.to_builtins(base.policy), DevicePolicy)
    progress = msgspec.convert(msgspec.to_builtins(base.progress), Progress)
    candidate = _extended(base.candidate, before.candidate)
    if base.candidate is not None and len(candidate) == 1:
        candidate = (Member(release=base.candidate, compat_hash=base.compat_hash, policy=policy),)
    known = {entry.bundle_sha256: entry for entry in before.quarantine}
    return DeviceRecord(
        status=base.status,
        counter=base.counter,
        order_counter=base.order_counter,
        active=_extended(base.active, before.active, before.candidate, before.previous),
        previous=_extended(base.previous, before.previous, before.active, before.candidate),
        candidate=candidate,
        progress=before.progress | {base.candidate.name: progress} if base.candidate else {},
        quarantine=tuple(known.get(sha, Quarantined(bundle_sha256=sha)) for sha in base.quarantine),
        recall=before.recall,
        baseline=before.baseline,
        reliances=before.reliances,
        settings=before.settings,
        fault=base.fault,
        reported=base.reported,
        boot_id=base.boot_id,
        clean_stop=base.clean_stop,
        changed_at=base.changed_at,
    )


_NOBODY = RunningRelease(name="none", version="0.0.0", bundle_sha256="0" * 64)


def _named(members: ReleaseSet, name: str | None) -> RunningRelease | None:
    """Return the release of the name that is tried, so that an older agent can go back to it."""
    return next((member.release for member in members if member.release.name == name), first_release(members))


def _extended(release: RunningRelease | None, *sets: ReleaseSet) -> ReleaseSet:
    """Return the first set that a release is of, or the release alone."""
    if release is None:
        return ()
    for members in sets:
        if any(member.release == release for member in members):
            return members
    return (Member(release=release),)


T = TypeVar("T", bound=Fact)


def _narrowed(value: Fact, kind: type[T]) -> T:
    """Return a value with the fields that ``kind`` has, at every depth."""
    fields = {}
    for field in msgspec.structs.fields(kind):
        own = getattr(value, field.name)
        narrow = isinstance(field.type, type) and issubclass(field.type, Fact) and isinstance(own, Fact)
        fields[field.name] = _narrowed(own, field.type) if narrow else own
    return kind(**fields)
