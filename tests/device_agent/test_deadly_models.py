# SPDX-License-Identifier: Apache-2.0
"""Models that crash, hang or leak, in the real admission child and the real worker: benchmarks/deadly_models.py."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import deadly_models
from benchmarks.bad_models import bad_model, hangs_on_blank
from benchmarks.zoo_device import COMPAT, DIGITS, PROFILE, pack
from device_agent.adapters.children.admission_process import AdmissionProcess
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import AdmissionRequest, Died, ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.core.timers import Timers
from device_agent.wiring import SystemClock
from device_agent.worker_watch import WorkerWatch
from edgefleet.contracts.errors import UnreachableError

if not (DIGITS / "v1_float32.tflite").exists():
    pytest.skip("'v1_float32.tflite' is missing in examples/digits", allow_module_level=True)
GOOD = (DIGITS / "v1_float32.tflite").read_bytes()
BLANK = np.zeros((1, 8, 8, 1), np.float32)


def stored(folder, fault):
    """Pack a bad model with the good one's vectors."""
    made = pack(bad_model(GOOD, fault), "2.0.0", golden=GOOD)
    path = folder / f"{made.release.bundle_sha256}.bundle"
    path.write_bytes(made.data)
    return ModelRef(path=str(path), release=made.release)


@pytest.mark.parametrize(
    ("fault", "cause", "told"),
    [
        (deadly_models.crash_in_load, "crash", "SIGSEGV"),
        (deadly_models.crash_in_invoke, "crash", "SIGFPE"),
        (deadly_models.leaks, "memory-leak", "kept"),
        (deadly_models.leaks_a_little, "memory-leak", "kept"),
    ],
    ids=["crash in load", "crash in invoke", "memory leak", "memory leak of 1 KiB"],
)
def test_a_deadly_model_is_refused_and_harms_its_admission_child_alone(tmp_path, fault, cause, told):
    request = AdmissionRequest(model=stored(tmp_path, fault), profile=PROFILE, compat_hash=COMPAT)
    verdict = AdmissionProcess(deadline_s=300.0).admit(request)
    assert (verdict.kind, verdict.cause) == ("refused", cause), verdict
    assert told in verdict.detail


@pytest.fixture
def watched(tmp_path, agent_tools):
    """Start a worker that an agent's watch looks after: ``serve(ref)``, then ``death()`` waits for its end."""
    path = tmp_path / "inference.sock"
    listener = listen(path)
    worker = WorkerProcess(listener, readable=[tmp_path])
    ports = SimpleNamespace(inference=worker, clock=SystemClock(), random=lambda: 0.5)
    watch = WorkerWatch(ports, Timers(), watchdog_s=300.0)
    worker.start()

    def reported(kind):
        watch.run_due(ports.clock.monotonic())
        for report in worker.reports():
            if isinstance(report, Serving):
                watch.answered(live=True, patience_s=report.patience_s)
            elif not isinstance(report, Died):
                watch.collected(live=True)
            if isinstance(report, kind):
                return report
        return None

    def serve(ref):
        watch.serve(ServingPlan(number=1, models=(PlannedModel(primary=ref),)), candidate_live=True)
        return agent_tools.wait_until(lambda: reported(Serving), "the plan is in force", 120.0)

    def death():
        return agent_tools.wait_until(lambda: reported(Died), "the worker's end", 120.0)

    yield SimpleNamespace(path=path, serve=serve, death=death)
    worker.stop()
    listener.close()


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (hangs_on_blank, "hang", "hung: one inference took"),
        (deadly_models.crashes_on_blank, "crash", "SIGFPE"),
    ],
    ids=["hang", "crash"],
)
def test_what_only_a_live_input_shows_ends_the_worker_by_its_own_name(tmp_path, watched, fault, kind, told):
    ref = stored(tmp_path, fault)
    watched.serve(ref)

    def ask():
        with InferenceClient(watched.path, timeout_s=300.0) as client:
            try:
                client.infer(BLANK)
            except UnreachableError:
                return  # the worker that would have answered has ended

    application = threading.Thread(target=ask, daemon=True)
    application.start()
    died = watched.death()
    assert (died.kind, died.during) == (kind, ref.release.bundle_sha256)
    assert told in died.detail
