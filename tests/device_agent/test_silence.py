# SPDX-License-Identifier: Apache-2.0
"""A worker that hangs is told from one that the machine keeps from its work."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.core.evidence.silence import Exertion, Silence, patience_s
from device_agent.core.serving import LaneCall, ServingPlan
from device_agent.core.timers import Timers
from device_agent.exertion import exertion_of
from device_agent.worker_watch import WorkerWatch

SHA = "a" * 64
RUNS, SLEEPS, STARVES = "runs", "sleeps", "starves"


class Machine:
    """A clock, a worker that does what the test says, and the worker's port."""

    def __init__(self, *, does, at_work=SHA):
        self.now, self.cpu_s, self.does, self.bundle = 100.0, 0.0, does, at_work
        self.killed = None
        self.timers = Timers()
        ports = SimpleNamespace(inference=self, clock=self, random=lambda: 0.5)
        self.watch = WorkerWatch(ports, self.timers, watchdog_s=20.0)
        self.watch.serve(ServingPlan(number=1), candidate_live=True)
        self.watch.answered(live=True, patience_s={SHA: 0.5})

    def monotonic(self):
        return self.now

    def serve(self, plan):
        """A plan is asked for."""

    def collect(self):
        """Counts are asked for, and never come."""

    def exertion(self, thread=None):
        return Exertion(self.cpu_s, asleep=self.does == SLEEPS)

    def at_work(self):
        return self.bundle

    def kill(self, why, *, kind, during=""):
        self.killed = self.killed or (kind, during)

    def live(self, seconds, *, step_s=0.05):
        """Let time pass until the worker is ended, and return how much passed."""
        until, began = self.now + seconds, self.now
        while self.now < until and self.killed is None:
            self.now += step_s
            self.cpu_s += step_s if self.does == RUNS else 0.0
            self.watch.run_due(self.now)
        return self.now - began


@pytest.mark.parametrize("does", [RUNS, SLEEPS])
def test_a_call_that_does_not_end_is_a_hang_soon_after_its_models_patience(does):
    machine = Machine(does=does)
    passed_s = machine.live(60.0)
    assert machine.killed == ("hang", SHA)
    assert passed_s < 1.0 + 0.5 + 0.3  # until the next sign of life is asked for, the patience, and two looks


def test_a_starved_worker_does_not_hang_and_is_ended_unblamed_after_long():
    machine = Machine(does=STARVES)
    machine.live(40.0)
    assert machine.killed is None
    machine.live(40.0)
    assert machine.killed == ("unexplained", "")


def test_outside_of_a_call_the_watchdogs_limit_holds():
    machine = Machine(does=RUNS, at_work="")
    assert machine.live(60.0) > 19.0
    assert machine.killed == ("hang", "")


def test_a_machine_that_stood_still_for_an_hour_tells_nothing_of_its_worker():
    machine = Machine(does=SLEEPS, at_work="")
    machine.live(1.1)
    machine.live(3600.0, step_s=3600.0)
    assert machine.killed in (None, ("unexplained", ""))


def test_a_lane_that_hangs_is_found_although_the_worker_answers():
    machine = Machine(does=RUNS)
    call = LaneCall(bundle_sha256=SHA, thread=77, since_s=100.0)
    passed_s = 0.0
    while machine.killed is None and passed_s < 60.0:
        passed_s += machine.live(0.25)
        machine.watch.collected(live=True, lanes=(call,))
    assert machine.killed == ("hang", SHA)
    assert passed_s < 1.5


def test_the_patience_follows_the_budget_and_has_a_floor():
    assert patience_s(100_000, 0.0) == 2.0
    assert patience_s(50, 9.0) == 0.5
    assert patience_s(None, 0.000_1) == 2.0
    assert patience_s(None, 0.1) == 10.0


steps = st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 20.0), st.booleans())


@given(st.lists(steps))
def test_no_silence_counts_for_more_than_it_lasted(steps):
    now, cpu_s = 50.0, 3.0
    silence, before = Silence(now, Exertion(cpu_s, asleep=False)), 0.0
    for passed_s, ran_s, asleep in steps:
        now, cpu_s = now + passed_s, cpu_s + ran_s
        own_s = silence.look(now, Exertion(cpu_s, asleep))
        assert before <= own_s <= silence.lasted_s(now) + 1e-9
        before = own_s


@pytest.mark.parametrize(
    ("script", "asleep"),
    [("import time; print(flush=True); time.sleep(60)", True), ("print(flush=True)\nwhile True: pass", False)],
    ids=["sleeps", "runs"],
)
def test_the_system_says_what_a_process_does(agent_tools, script, asleep):
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            for thread in (None, 0, process.pid):
                agent_tools.wait_until(lambda t=thread: exertion_of(process.pid, t).asleep == asleep, "what it does")
            before = exertion_of(process.pid).cpu_s
            if not asleep:
                agent_tools.wait_until(lambda: exertion_of(process.pid).cpu_s > before, "that it goes on", 60.0)
            os.kill(process.pid, signal.SIGSTOP)
            agent_tools.wait_until(lambda: not exertion_of(process.pid).asleep, "that it is stopped")
        finally:
            process.kill()
    assert exertion_of(process.pid) is None
