# SPDX-License-Identifier: Apache-2.0
"""Keeping the inference worker at work: plans, signs of life, restarts with back-off, and crash loops."""

from collections import deque

from device_agent.core.schedule import CRASH_LOOP_LIMIT, Backoff
from device_agent.core.serving import ModelRef, ServingPlan
from device_agent.core.timers import Timers
from device_agent.ports import Ports

_COLLECT_S = 1.0
_SIGN_OF_LIFE_S = 5.0
_ANSWER_DEADLINE_S = 60.0
_CRASH_WINDOW_S = 600.0
_RESTART = Backoff(first_s=0.05, cap_s=30.0)
_WATCHED = ("watchdog", "collect", "answer")


class WorkerWatch:
    """What the agent asked its worker for, and how the worker has been.

    ``candidate_live`` tells whether the candidate is in the worker's plan, so that its death may be the candidate's.
    """

    def __init__(self, ports: Ports, timers: Timers, *, watchdog_s: float) -> None:
        self.plan = ServingPlan(number=0)
        self.candidate_live = False
        self._inference = ports.inference
        self._clock = ports.clock
        self._random = ports.random
        self._timers = timers
        self._watchdog_s = watchdog_s
        self._failures = 0
        self._last_death: float | None = None
        self._crashes: deque[float] = deque(maxlen=CRASH_LOOP_LIMIT)

    @property
    def restarting(self) -> bool:
        """Tell whether there is no worker just now."""
        return self._timers.is_set("restart")

    def serve(self, plan: ServingPlan, *, candidate_live: bool) -> None:
        """Ask for a plan; a worker that does not answer to it in time is ended."""
        self.plan = plan
        self.candidate_live = candidate_live
        self._inference.serve(plan)
        self._expect_answer()

    def verify(self, model: ModelRef) -> None:
        """Ask for a verification; a worker that does not answer to it in time is ended."""
        self._inference.verify(model)
        self._expect_answer()

    def collect(self) -> None:
        """Ask for counts, which are also the sign of life that the watchdog waits for."""
        self._inference.collect()
        self._timers.cancel("collect")
        self._timers.sooner("watchdog", self._clock.monotonic() + self._watchdog_s)

    def collected(self, *, live: bool) -> None:
        """Take a sign of life, and plan the next one: soon while a candidate is being judged."""
        self._timers.cancel("watchdog")
        self._timers.sooner("collect", self._clock.monotonic() + (_COLLECT_S if live else _SIGN_OF_LIFE_S))

    def answered(self, *, live: bool) -> None:
        """Take the answer to a plan or a verification."""
        self._timers.cancel("answer")
        self.collected(live=live)

    def run_due(self, now: float) -> bool:
        """Collect, or end a worker that does not answer; True when a new worker was started and needs a plan."""
        if self._timers.take("collect", now):
            self.collect()
        if self._timers.take("watchdog", now) or self._timers.take("answer", now):
            self._inference.kill("did not answer in time")
        if self._timers.take("restart", now):
            self._inference.start()
            return True
        return False

    def died(self) -> bool:
        """Plan a restart; tell whether the candidate was in the worker that died."""
        now = self._clock.monotonic()
        for name in _WATCHED:
            self._timers.cancel(name)
        recently = self._last_death is not None and now - self._last_death < 2.0 * _RESTART.cap_s
        self._last_death = now
        self._failures = self._failures + 1 if recently else 1
        self._timers.set("restart", now + _RESTART.delay_s(self._failures, self._random()))
        with_candidate, self.candidate_live = self.candidate_live, False
        return with_candidate

    def crash_loop(self) -> bool:
        """Count a crash of a committed model; tell whether there were too many in a short time."""
        now = self._clock.monotonic()
        self._crashes.append(now)
        if len(self._crashes) < CRASH_LOOP_LIMIT or now - self._crashes[0] > _CRASH_WINDOW_S:
            return False
        self._crashes.clear()
        return True

    def _expect_answer(self) -> None:
        self._timers.set("answer", self._clock.monotonic() + _ANSWER_DEADLINE_S)
