# SPDX-License-Identifier: Apache-2.0
"""A spare worker waits while a candidate may end the first, and a way back does not wait for the back-off."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import Died, ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.core.timers import Timers
from device_agent.worker_watch import WorkerWatch
from edgefleet.contracts.messages import RunningRelease


class Bench:
    """A worker process that is commanded by the test, with a good model and a candidate."""

    def __init__(self, folder, tools, bundles):
        self.path = folder / "worker.sock"
        self.tools = tools
        self.listener = listen(self.path)
        self.process = WorkerProcess(self.listener, readable=[folder])
        self.good, self.candidate = (self._slot(folder, made) for made in (bundles.v1, bundles.v5))
        self.number = 0
        self.process.start()

    @staticmethod
    def _slot(folder, made):
        path = folder / f"{made.sha256}.bundle"
        path.write_bytes(made.data)
        release = RunningRelease(name="digits", version=made.version, bundle_sha256=made.sha256)
        return ModelRef(path=str(path), release=release)

    def serve(self, *, candidate, swap="resident"):
        self.number += 1
        planned = PlannedModel(primary=self.good)
        if candidate:
            planned = PlannedModel(
                primary=self.candidate, role="trial", companion=self.good, companion_role="fallback", share=0.5
            )
        self.process.serve(ServingPlan(number=self.number, models=(planned,), swap=swap))
        self.until(Serving)

    def until(self, kind):
        def found():
            return next((report for report in self.process.reports() if isinstance(report, kind)), None)

        return self.tools.wait_until(found, f"the report {kind.__name__}")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.until(Died)

    def close(self):
        self.process.stop()
        self.listener.close()


@pytest.fixture
def bench(tmp_path, agent_tools, agent_bundles):
    bench = Bench(tmp_path, agent_tools, agent_bundles)
    yield bench
    bench.close()


def _runs(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_the_spare_worker_of_a_trial_takes_the_place_of_the_worker_that_died(bench, digits_live):
    bench.serve(candidate=True)
    spare = bench.process.spare_pid
    bench.kill()
    bench.process.start()
    assert (bench.process.pid, bench.process.spare_pid) == (spare, None)
    bench.serve(candidate=False)
    with InferenceClient(bench.path, timeout_s=bench.tools.limit_s) as client:
        assert client.infer(digits_live[0][:1]).release == "digits 1.0.0"


def test_without_a_candidate_there_is_no_spare_worker_and_one_that_was_there_ends(bench):
    bench.serve(candidate=False)
    assert bench.process.spare_pid is None
    bench.serve(candidate=True)
    spare = bench.process.spare_pid
    assert _runs(spare)
    bench.serve(candidate=False)
    assert bench.process.spare_pid is None
    assert not _runs(spare)


def test_a_board_with_cold_swaps_has_no_spare_worker(bench):
    bench.serve(candidate=True, swap="cold")
    assert bench.process.spare_pid is None


def test_where_the_spare_worker_has_ended_too_another_one_is_started(bench):
    bench.serve(candidate=True)
    spare = bench.process.spare_pid
    os.kill(spare, signal.SIGKILL)
    bench.tools.wait_until(lambda: not _runs(spare), "the spare worker's end")
    bench.kill()
    bench.process.start()
    assert bench.process.pid != spare
    bench.serve(candidate=False)


def test_a_spare_worker_ends_with_the_agents_stop(bench):
    bench.serve(candidate=True)
    spare = bench.process.spare_pid
    bench.process.stop()
    assert not _runs(spare)


def test_no_worker_leaves_a_core_dump_which_would_hold_its_inputs(bench):
    bench.serve(candidate=True)
    for pid in (bench.process.pid, bench.process.spare_pid):
        bench.tools.wait_until(lambda pid=pid: _core_limit(pid) in ("0 0", "1 1"), "the worker's limits")


def _core_limit(pid):
    """Return the soft and the hard limit of a process's core dumps (1: none, not even through a pipe, core(5))."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core" in line)
    return " ".join(line.split()[4:6])


class Port:
    """A worker's port and its clock, which stands still."""

    def __init__(self):
        self.started = 0

    def monotonic(self):
        return 100.0

    def start(self):
        self.started += 1

    def serve(self, plan):
        """A plan is asked for."""

    def collect(self):
        """Counts are asked for."""

    def exertion(self, thread=None):
        """Nothing runs."""


def _planned(version):
    release = RunningRelease(name="digits", version=version, bundle_sha256=version[0] * 64)
    return (PlannedModel(primary=ModelRef(path="/x", release=release)),)


@pytest.mark.parametrize(("then", "started"), [("1.0.0", True), ("2.0.0", False)], ids=["other models", "the same"])
def test_after_a_death_other_models_are_started_at_once_and_the_same_ones_after_the_back_off(then, started):
    port = Port()
    watch = WorkerWatch(SimpleNamespace(inference=port, clock=port, random=lambda: 0.5), Timers(), watchdog_s=20.0)
    watch.serve(ServingPlan(number=1, models=_planned("2.0.0")), candidate_live=True)
    for _ in range(8):  # so that the back-off has become long
        watch.died()
    watch.serve(ServingPlan(number=2, models=_planned(then)), candidate_live=False)
    assert watch.run_due(port.monotonic()) is started
    assert port.started == started
