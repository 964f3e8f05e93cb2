# SPDX-License-Identifier: Apache-2.0
"""Does a silent worker hang, or does the machine keep it from its work? Pure figures.

A worker hangs when it runs, or sleeps of its own accord, and does not come to an end: only that time is counted.
While it waits for a processor that others have, for a disk, or for a debugger, it is innocent.
"""

from typing import NamedTuple

#: A look that comes later than this after the last one says nothing of what was between: the machine stood still.
_GAP_S = 1.0
#: A call hangs after so many times the bundle's p99 latency budget, but no sooner than this.
BUDGETS = 20.0
LEAST_PATIENCE_S = 0.5
#: Without a budget: after so many times the call that warmed the model, but no sooner than this.
FIRST_CALLS = 100.0
LEAST_UNTOLD_S = 2.0
#: So much longer than its own time may a process be silent that was kept from its work.
STARVED_TIMES = 2.5


class Exertion(NamedTuple):
    """What the system says of a process or a thread: its processor seconds so far, and whether it sleeps.

    It is ``asleep`` if nothing that it could wait for is at work either: no thread runs, or waits for a processor, a
    disk or a debugger.
    """

    cpu_s: float
    asleep: bool


class Silence:
    """A silence since ``now`` (seconds of a clock that never jumps); without exertions all of it counts."""

    def __init__(self, now: float, exertion: Exertion | None) -> None:
        self.own_s = 0.0
        self._began = self._last = now
        self._cpu_s = exertion.cpu_s if exertion else 0.0

    def look(self, now: float, exertion: Exertion | None) -> float:
        """Count what has passed since the last look; return how long the worker could have answered."""
        passed_s, self._last = now - self._last, now
        if exertion is None:
            self.own_s += passed_s
            return self.own_s
        ran_s, self._cpu_s = max(exertion.cpu_s - self._cpu_s, 0.0), exertion.cpu_s
        self.own_s += min(passed_s, max(ran_s, _GAP_S)) if exertion.asleep else min(ran_s, passed_s)
        return self.own_s

    def lasted_s(self, now: float) -> float:
        """Return how long it is in all."""
        return now - self._began


def patience_s(latency_p99_us: int | None, first_call_s: float) -> float:
    """Return how long one call of a model may take before it hangs: many times its budget, or else its first call."""
    if latency_p99_us is not None:
        return max(BUDGETS * latency_p99_us * 1e-6, LEAST_PATIENCE_S)
    return max(FIRST_CALLS * first_call_s, LEAST_UNTOLD_S)
