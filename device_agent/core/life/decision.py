# SPDX-License-Identifier: Apache-2.0
"""What the core answers to a happening: a new record, and what is to be done about it, in a fixed order.

The agent carries a decision out as :data:`ORDER` says. A power cut between any two steps therefore repeats marks and
events and never loses one, and nothing is activated that is not written down.
"""

from typing import Any, Literal, NamedTuple

import msgspec

from device_agent.core.life.lifecycle import Trigger, step
from device_agent.core.life.record import DeviceRecord, Fault, Software, quarantined
from device_agent.core.life.release_set import Member, ReleaseSet
from edgefleet.contracts.messages import DeviceStatus, EventKind, RunningRelease

ORDER = ("marks", "events", "record", "effects")

Effect = Literal[
    "serve",  # let the good set answer
    "serve-candidate",  # let the candidate listen or answer, as the state says
    "verify",  # prove the good set by fresh inferences
    "keep-slots",  # delete what the record does not name
    "drop-installation",  # let go of what is being prepared
    "drop-factory",  # the factory model does not load
    "activate",  # take an attempt off and activate the candidate
    "activate-later",  # the same after a while
    "cancel-activation",
]


class Mark(NamedTuple):
    """A note beside a slot: committed, or in quarantine."""

    kind: Literal["good", "bad"]
    release: RunningRelease


class Told(NamedTuple):
    """An event; ``since`` is the first sign of the fault that it follows from (Unix seconds), if there is one."""

    kind: EventKind
    cause: str
    detail: str = ""
    release: RunningRelease | None = None
    since: float | None = None


class Decision(NamedTuple):
    """A new record, and what is to be done."""

    record: DeviceRecord
    marks: tuple[Mark, ...] = ()
    events: tuple[Told, ...] = ()
    effects: tuple[Effect, ...] = ()


class Situation(NamedTuple):
    """What a decision needs to know beside the record.

    ``now`` is in Unix seconds; ``factory`` answers where no good set does; ``held`` says why an application holds
    updates off (empty: none does); ``candidate_live`` tells whether the candidate is in the worker's plan just now;
    ``first_sign`` is when the worker first told of a fault that is not decided yet.
    """

    now: float
    software: Software = Software()
    factory: Member | None = None
    held: str = ""
    candidate_live: bool = False
    first_sign: float | None = None


class Draft:
    """A decision in the making."""

    def __init__(self, record: DeviceRecord, situation: Situation) -> None:
        self.record = record
        self.situation = situation
        self._marks: list[Mark] = []
        self._events: list[Told] = []
        self._effects: list[Effect] = []

    @property
    def status(self) -> DeviceStatus:
        """The state that the decision has come to."""
        return self.record.status  # type: ignore[return-value]  # recover() lets only known states in

    def set(self, **changes: Any) -> None:
        """Replace some fields of the record."""
        self.record = msgspec.structs.replace(self.record, **changes)

    def move(self, trigger: Trigger, **changes: Any) -> None:
        """Go on in the life cycle.

        Raises:
            LifecycleFaultError: the state does not know the trigger.
        """
        self.set(status=step(self.status, trigger), changed_at=self.situation.now, **changes)

    def tell(self, kind: EventKind, cause: str, detail: str = "", release: RunningRelease | None = None) -> None:
        """Tell an event."""
        self._events.append(Told(kind, cause, detail[:1000], release))

    def tell_of_fault(self, kind: EventKind, detail: str = "", release: RunningRelease | None = None) -> None:
        """Tell an event that follows from the record's fault."""
        fault = self.record.fault or Fault(cause="unknown", at=self.situation.now)
        text = "; ".join(part for part in (fault.detail, detail) if part)
        self._events.append(Told(kind, fault.cause, text[:1000], release or fault.release, fault.at))

    def fault(self, cause: str, detail: str, release: RunningRelease | None) -> Fault:
        """Return a fault that began with the first sign of it."""
        at = self.situation.now if self.situation.first_sign is None else self.situation.first_sign
        return Fault(cause=cause, detail=detail[:1000], release=release, at=at)

    def mark_good(self, members: ReleaseSet) -> None:
        """Note beside each slot that it was committed."""
        self._marks += [Mark("good", member.release) for member in members]

    def quarantine(self, members: ReleaseSet, cause: str, detail: str) -> None:
        """Never try some bundles again with this software."""
        for member in members:
            self._marks.append(Mark("bad", member.release))
            self.record = quarantined(self.record, member.sha256, self.situation.software, cause)
            self.tell("quarantined", cause, detail, member.release)

    def do(self, *effects: Effect) -> None:
        """Add effects, each once, at the place of its last mention."""
        for effect in effects:
            if effect in self._effects:
                self._effects.remove(effect)
            self._effects.append(effect)

    def done(self) -> Decision:
        """Return the decision."""
        return Decision(self.record, tuple(self._marks), tuple(self._events), tuple(self._effects))
