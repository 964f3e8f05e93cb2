# SPDX-License-Identifier: Apache-2.0
"""Keeping the inference worker at work: plans, signs of life, restarts with back-off, and crash loops.

A worker that gives no sign of life is looked at until it does. It is ended as *hung* after the time that it could have
used itself (:mod:`device_agent.core.evidence.silence`): within a call of a model, that model's patience, which follows
its latency budget; otherwise the watchdog's. A worker that the machine kept from its work is ended after longer,
unblamed.
"""

from collections import deque
from collections.abc import Mapping

from device_agent.core.evidence.silence import STARVED_TIMES, Silence
from device_agent.core.schedule import CRASH_LOOP_LIMIT, CRASH_WINDOW_S, RESTART, STEADY_S
from device_agent.core.serving import LaneCall, ModelRef, ServingPlan
from device_agent.core.timers import Timers
from device_agent.ports import MAIN_THREAD, Ports

_COLLECT_S = 1.0
_SIGN_OF_LIFE_S = 5.0
_ANSWER_DEADLINE_S = 60.0
#: A silence is looked at from so early on, and so often.
_FIRST_LOOK_S = 0.25
_LOOK_S = 0.1
_WATCHED = ("look", "collect")


class WorkerWatch:
    """What the agent asked its worker for, and how the worker has been.

    ``candidate_live`` tells whether the candidate is in the worker's plan, so that its death may be the candidate's.
    ``time_scale`` divides the waits before restarts, and the times in which deaths count together.
    """

    def __init__(self, ports: Ports, timers: Timers, *, watchdog_s: float, time_scale: float = 1.0) -> None:
        self.plan = ServingPlan(number=0)
        self.candidate_live = False
        self._inference = ports.inference
        self._clock = ports.clock
        self._random = ports.random
        self._timers = timers
        self._watchdog_s = watchdog_s
        self._restart = RESTART.faster(time_scale)
        self._steady_s = STEADY_S / time_scale
        self._crash_window_s = CRASH_WINDOW_S / time_scale
        self._patience_s: dict[str, float] = {}
        self._silence: Silence | None = None
        self._unanswered: Silence | None = None
        self._lanes: dict[LaneCall, Silence] = {}
        self._failures = 0
        self._last_death: float | None = None
        self._crashes: deque[float] = deque(maxlen=CRASH_LOOP_LIMIT)

    @property
    def restarting(self) -> bool:
        """Tell whether there is no worker just now."""
        return self._timers.is_set("restart")

    def serve(self, plan: ServingPlan, *, candidate_live: bool) -> None:
        """Ask for a plan; a worker that does not answer to it in time is ended.

        Where none runs, other models than those that it ran are no reason to wait: a way back begins at once.
        """
        if self.restarting and plan.models != self.plan.models:
            self._timers.set("restart", self._clock.monotonic())
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
        now = self._clock.monotonic()
        self._silence = self._silence or Silence(now, self._inference.exertion(MAIN_THREAD))
        self._timers.sooner("look", now + _FIRST_LOOK_S)

    def collected(self, *, live: bool, lanes: tuple[LaneCall, ...] = ()) -> None:
        """Take a sign of life, and plan the next one: soon while a candidate is being judged."""
        self._silence = None
        now = self._clock.monotonic()
        self._lanes = {call: self._lanes.get(call) or self._silence_of(call, now) for call in lanes}
        for call, silence in self._lanes.items():
            self._ended_as_hung(silence.look(now, self._inference.exertion(call.thread)), call.bundle_sha256)
        every_s = _FIRST_LOOK_S if lanes else _COLLECT_S if live else _SIGN_OF_LIFE_S
        self._timers.sooner("collect", now + every_s)

    def answered(self, *, live: bool, patience_s: Mapping[str, float] | None = None) -> None:
        """Take the answer to a plan or a verification; a plan's says how long each bundle's calls may take."""
        self._unanswered = None
        if patience_s is not None:
            self._patience_s = dict(patience_s)
        self.collected(live=live)

    def run_due(self, now: float) -> bool:
        """Collect, or end a worker that does not answer; True when a new worker was started and needs a plan."""
        if self._timers.take("collect", now):
            self.collect()
        if self._timers.take("look", now):
            self._look(now)
        if self._timers.take("restart", now):
            self._inference.start()
            return True
        return False

    def _look(self, now: float) -> None:
        if self._unanswered is not None:
            own_s = self._unanswered.look(now, self._inference.exertion())
            self._end_if_silent(self._unanswered, own_s, now, _ANSWER_DEADLINE_S)
        if self._silence is not None:
            own_s = self._silence.look(now, self._inference.exertion(MAIN_THREAD))
            if not self._ended_as_hung(own_s, self._inference.at_work()):
                self._end_if_silent(self._silence, own_s, now, self._watchdog_s)
        if self._silence is not None or self._unanswered is not None:
            self._timers.sooner("look", now + _LOOK_S)

    def _ended_as_hung(self, own_s: float, bundle_sha256: str) -> bool:
        """End a worker of which one call takes longer than that model's ever should."""
        limit_s = self._patience_s.get(bundle_sha256, self._watchdog_s)
        if not bundle_sha256 or own_s < limit_s:
            return False
        why = f"hung: one inference took {own_s:.1f} s of its own, the limit is {limit_s:.1f} s"
        self._inference.kill(why, kind="hang", during=bundle_sha256)
        return True

    def _end_if_silent(self, silence: Silence, own_s: float, now: float, limit_s: float) -> None:
        if own_s >= limit_s:
            self._inference.kill("did not answer in time", kind="hang")
        elif silence.lasted_s(now) >= STARVED_TIMES * limit_s:
            self._inference.kill("was kept from its work by the machine for too long", kind="unexplained")

    def _silence_of(self, call: LaneCall, now: float) -> Silence:
        return Silence(now, self._inference.exertion(call.thread))

    def died(self) -> bool:
        """Plan a restart; tell whether the candidate was in the worker that died."""
        now = self._clock.monotonic()
        for name in _WATCHED:
            self._timers.cancel(name)
        self._silence = self._unanswered = None
        self._lanes = {}
        recently = self._last_death is not None and now - self._last_death < self._steady_s
        self._last_death = now
        self._failures = self._failures + 1 if recently else 1
        self._timers.set("restart", now + self._restart.delay_s(self._failures, self._random()))
        with_candidate, self.candidate_live = self.candidate_live, False
        return with_candidate

    def crash_loop(self) -> bool:
        """Count a crash of a committed model; tell whether there were too many in a short time."""
        now = self._clock.monotonic()
        self._crashes.append(now)
        if len(self._crashes) < CRASH_LOOP_LIMIT or now - self._crashes[0] > self._crash_window_s:
            return False
        self._crashes.clear()
        return True

    def _expect_answer(self) -> None:
        now = self._clock.monotonic()
        self._unanswered = Silence(now, self._inference.exertion())
        self._timers.sooner("look", now + _FIRST_LOOK_S)
