# SPDX-License-Identifier: Apache-2.0
"""What an agent must remember across a power cut: one record, replaced whole."""

from typing import Annotated

import msgspec

from device_agent.core.evidence.pairs import Pairs, Side
from device_agent.core.life.release_set import Member, ReleaseSet, changed
from device_agent.core.recall import Recall
from device_agent.core.reliance import Reliances
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import Cause, Detail, RunningRelease
from edgefleet.contracts.names import Name, Sha256
from edgefleet.contracts.policy import DevicePolicy

REPORTED_LIMIT = 32
QUARANTINE_LIMIT = 1000


class Progress(Fact, frozen=True, kw_only=True):
    """How far one member of a candidate has come in shadow or trial.

    ``attempts_left`` is decremented durably before each activation, and given back after a clean stop, a reboot or a
    death that nothing explains. ``elapsed_s`` counts policy seconds while the agent was running. ``looks`` were taken
    at the ``pairs``, ``label_looks`` at their labels; ``input_changed`` was told. ``rss_first`` is the worker's memory
    when the candidate was warm, ``rss_last`` that of now.
    """

    attempts_left: Natural = 0
    unexplained_left: int = 0
    requests: Natural = 0
    failed: Natural = 0
    non_finite: Natural = 0
    compared: Natural = 0
    elapsed_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    pairs: Pairs = Pairs()
    looks: Natural = 0
    label_looks: Natural = 0
    input_changed: bool = False
    rss_first: Natural = 0
    rss_last: Natural = 0


class Fault(Fact, frozen=True, kw_only=True):
    """Why the device goes back, from which release, and when the first sign was (Unix seconds)."""

    cause: Cause
    detail: Detail = ""
    release: RunningRelease | None = None
    at: float = 0.0


class Software(Fact, frozen=True, kw_only=True):
    """Who tried a bundle: the agent's version, and its runtime's with the name."""

    agent: str = ""
    runtime: str = ""


#: Of an entry that was written before entries named their software: it holds for all.
ANY_SOFTWARE = Software()


class Quarantined(Fact, frozen=True, kw_only=True):
    """A bundle that failed here with this software; other software may try it again."""

    bundle_sha256: Sha256
    software: Software = ANY_SOFTWARE
    cause: str = ""


class DeviceRecord(Fact, frozen=True, kw_only=True):
    """One device's whole persistent state.

    ``active`` is the set that was last found good and answers, unless a trial is on; ``candidate`` is the whole set
    under test (it answers in a trial), empty where there is none; ``previous`` is the good set before ``active``.
    ``progress`` is kept by model name for the members that change, ``baseline`` (how it answers) by bundle for the
    active ones. ``status`` is any text, so that a state written by
    another agent can be read and answered with a rollback. ``reliances`` are what applications need, ``settings`` the
    text of the last verified file of settings. ``counter`` is the highest assignment counter accepted,
    ``order_counter`` that of the candidate's order. ``reported`` names refusals already reported.
    """

    status: str = "idle"
    counter: Natural = 0
    order_counter: Natural = 0
    active: ReleaseSet = ()
    previous: ReleaseSet = ()
    candidate: ReleaseSet = ()
    progress: dict[Name, Progress] = msgspec.field(default_factory=dict)
    baseline: dict[Sha256, Side] = msgspec.field(default_factory=dict)
    quarantine: tuple[Quarantined, ...] = ()
    recall: Recall = Recall()
    reliances: Reliances = ()
    settings: str = ""
    fault: Fault | None = None
    reported: tuple[str, ...] = ()
    boot_id: str = ""
    clean_stop: bool = False
    changed_at: float = 0.0

    @property
    def trying(self) -> ReleaseSet:
        """The members of the candidate that have to be tried: the others answer already."""
        return changed(self.candidate, self.active)

    def quarantines(self, bundle_sha256: str, software: Software) -> bool:
        """Tell whether this device will not try the bundle again with this software."""
        return any(
            entry.bundle_sha256 == bundle_sha256 and entry.software in (software, ANY_SOFTWARE)
            for entry in self.quarantine
        )


def quarantined(record: DeviceRecord, bundle_sha256: str, software: Software, cause: str) -> DeviceRecord:
    """Return the record with one more entry in quarantine (the oldest entries beyond the limit are let go)."""
    entry = Quarantined(bundle_sha256=bundle_sha256, software=software, cause=cause)
    kept = tuple(
        known for known in record.quarantine if (known.bundle_sha256, known.software) != (bundle_sha256, software)
    )
    return msgspec.structs.replace(record, quarantine=(*kept, entry)[-QUARANTINE_LIMIT:])


def lifted(record: DeviceRecord, bundle_sha256s: tuple[str, ...]) -> DeviceRecord:
    """Return the record without the entries of some bundles, whatever software they were made with."""
    kept = tuple(entry for entry in record.quarantine if entry.bundle_sha256 not in bundle_sha256s)
    return msgspec.structs.replace(record, quarantine=kept)


def reported(record: DeviceRecord, key: str) -> DeviceRecord:
    """Return the record that remembers a refusal as reported."""
    return msgspec.structs.replace(record, reported=(*record.reported, key)[-REPORTED_LIMIT:])


def fresh_progress(policy: DevicePolicy) -> Progress:
    """Return the counters with which a shadow or a trial of one member starts."""
    return Progress(attempts_left=policy.trial.crash_limit + 1, unexplained_left=policy.trial.unexplained_limit)


def fresh_progress_of(members: ReleaseSet) -> dict[str, Progress]:
    """Return the counters with which a shadow or a trial of several members starts."""
    return {member.release.name: fresh_progress(member.policy) for member in members}


def member_of(members: ReleaseSet, bundle_sha256: str) -> Member | None:
    """Return the member with a bundle, None where the set has none."""
    return next((member for member in members if member.sha256 == bundle_sha256), None)
