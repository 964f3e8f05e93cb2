# SPDX-License-Identifier: Apache-2.0
"""Events in the words of the life cycle: each with its order, its release and how long it took."""

from device_agent.core.record import Fault
from device_agent.memory import Memory
from device_agent.ports import Clock
from device_agent.reporting import Reporter
from edgefleet.contracts.messages import Event, EventKind, RunningRelease


class Chronicle:
    """Writes what happens to a device into its outbox."""

    def __init__(self, reporter: Reporter, memory: Memory, clock: Clock) -> None:
        self._reporter = reporter
        self._memory = memory
        self._clock = clock

    def event(
        self,
        kind: EventKind,
        cause: str,
        detail: str = "",
        *,
        release: RunningRelease | None = None,
        seconds: float | None = None,
    ) -> None:
        """Store an event of the present order."""
        counter = self._memory.record.counter
        event = Event(kind=kind, cause=cause, detail=detail[:1000], release=release, counter=counter, seconds=seconds)
        self._reporter.event(event)

    def of_fault(self, kind: EventKind, detail: str, release: RunningRelease | None = None) -> None:
        """Store an event that follows from the present fault, with the seconds since its first sign."""
        now = self._clock.wall()
        fault = self._memory.record.fault or Fault(cause="unknown", at=now)
        text = "; ".join(part for part in (fault.detail, detail) if part)
        self.event(kind, fault.cause, text, release=release or fault.release, seconds=max(now - fault.at, 0.0))
