# SPDX-License-Identifier: Apache-2.0
"""When a round of upkeep begins, and what the agent makes of its end."""

import logging
from collections.abc import Callable
from concurrent.futures import Future

from device_agent.core.schedule import Backoff, jittered_s
from device_agent.core.timers import Timers
from device_agent.core.upkeep import Note, UpkeepResult
from device_agent.ports import Ports
from edgefleet.contracts.errors import EdgeFleetError

#: The first round waits until the device answers applications and has asked for its orders.
FIRST_S = 60.0
PERIOD_S = 3600.0
_RETRY = Backoff(first_s=300.0, cap_s=PERIOD_S)
#: A broker may drop a session of its own accord; whoever takes it over again and again is another device.
TAKEOVER_LIMIT = 3

_LOG = logging.getLogger("edgefleet.agent")


class Caretaking:
    """At most one round at a time; the agent asks :meth:`step` on each tick."""

    def __init__(
        self,
        ports: Ports,
        timers: Timers,
        *,
        time_scale: float,
        wake: Callable[[], None],
    ) -> None:
        self._ports = ports
        self._timers = timers
        self._scale = time_scale
        self._wake = wake
        self._round: Future[UpkeepResult] | None = None
        self._failures = 0
        self._told: set[tuple[str, str]] = set()

    def plan_first(self) -> None:
        """Plan the first round."""
        if self._ports.upkeep is not None:
            self._plan(jittered_s(FIRST_S, self._ports.random()))

    def step(self) -> tuple[Note, ...]:
        """Begin a round if it is time, and return what a round that has ended found."""
        if self._round is None:
            if self._ports.upkeep is not None and self._timers.take("upkeep", self._ports.clock.monotonic()):
                self._round = self._ports.executor.submit(self._ports.upkeep.round)
                self._round.add_done_callback(lambda _: self._wake())
            return self._rivals()
        if not self._round.done():
            return self._rivals()
        done, self._round = self._round, None
        return (*self._finished(done), *self._rivals())

    def _finished(self, done: Future[UpkeepResult]) -> tuple[Note, ...]:
        try:
            result = done.result()
        except Exception as error:  # noqa: BLE001  a defect in upkeep must never end inference
            _LOG.warning("%s", error, exc_info=None if isinstance(error, EdgeFleetError) else error)
            result = UpkeepResult(soon=True)
        self._failures = self._failures + 1 if result.soon else 0
        wait_s = _RETRY.delay_s(self._failures, self._ports.random()) if result.soon else PERIOD_S
        self._plan(wait_s if result.soon else jittered_s(wait_s, self._ports.random()))
        return tuple(note for note in result.notes if self._is_new(note))

    def _is_new(self, note: Note) -> bool:
        """Tell whether a warning was not given since the last good news."""
        if note.kind == "certificate-renewed":
            self._told.clear()
        elif note.kind == "certificate-lapsing":
            key = (note.kind, note.cause)
            if key in self._told:
                return False
            self._told.add(key)
        return True

    def _rivals(self) -> tuple[Note, ...]:
        """Report that others take this device's place at the broker, once a run of the agent."""
        count = self._ports.messenger.takeovers
        key = ("identity-cloned", "session-taken-over")
        if count < TAKEOVER_LIMIT or key in self._told:
            return ()
        self._told.add(key)
        detail = f"the broker gave this device's session to another one {count} times: a copy of its memory card runs"
        return (Note(kind="identity-cloned", cause="session-taken-over", detail=detail),)

    def _plan(self, wait_s: float) -> None:
        self._timers.set("upkeep", self._ports.clock.monotonic() + wait_s / self._scale)
