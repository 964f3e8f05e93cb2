# SPDX-License-Identifier: Apache-2.0
"""Events in the words of the life cycle: each with its order, its release and how long it took."""

from device_agent.core.life.decision import Told
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

    def told(self, told: Told) -> None:
        """Store an event that the core tells; one that follows from a fault says how long after its first sign."""
        seconds = None if told.since is None else max(self._clock.wall() - told.since, 0.0)
        self.event(told.kind, told.cause, told.detail, release=told.release, seconds=seconds)
