# SPDX-License-Identifier: Apache-2.0
"""What admission refuses, and the child process that it runs in."""

import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from device_agent import inference_protocol
from device_agent.adapters.children.admission_process import AdmissionProcess
from device_agent.admission import checks
from device_agent.admission.checks import InProcessAdmission
from device_agent.core.serving import AdmissionRequest, ModelRef
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.manifest import Budgets
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.loaded_model import LoadedModel


def test_admission_in_a_child_agrees_with_admission_in_this_process(agent_bundles, tmp_path, agent_tools):
    for made, expected in [
        (agent_bundles.v1, ("passed", "all-checks")),
        (agent_bundles.wrong_parity, ("refused", "parity-reference")),
    ]:
        path = tmp_path / f"{made.sha256}.bundle"
        path.write_bytes(made.data)
        release = RunningRelease(name=made.name, version=made.version, bundle_sha256=made.sha256)
        request = AdmissionRequest(
            model=ModelRef(path=str(path), release=release),
            profile=agent_tools.PROFILE,
            compat_hash=agent_tools.COMPAT,
            acceptance_sha256=made.manifest.acceptance.sha256,
            acceptance_minimum=0.9,
        )
        for admission in (AdmissionProcess(deadline_s=60.0), InProcessAdmission()):
            verdict = admission.admit(request)
            assert (verdict.kind, verdict.cause) == expected


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"profile": "raspberry-pi-4"}, "wrong-profile"),
        ({"compat_hash": "d" * 64}, "mismatch"),
        ({"acceptance_sha256": "e" * 64}, "acceptance-examples"),
        ({"acceptance_minimum": 1.0}, "acceptance"),
    ],
    ids=["profile", "compat_hash", "other examples", "too low a score"],
)
def test_admission_refuses_what_the_signed_release_does_not_say(agent_bundles, tmp_path, agent_tools, changes, cause):
    made = agent_bundles.v1
    path = tmp_path / "slot.bundle"
    path.write_bytes(made.data)
    release = RunningRelease(name=made.name, version=made.version, bundle_sha256=made.sha256)
    request = AdmissionRequest(
        model=ModelRef(path=str(path), release=release),
        profile=agent_tools.PROFILE,
        compat_hash=agent_tools.COMPAT,
        acceptance_sha256=made.manifest.acceptance.sha256,
    )
    verdict = InProcessAdmission().admit(msgspec.structs.replace(request, **changes))
    assert (verdict.kind, verdict.cause) == ("refused", cause)


@pytest.fixture
def child_that(agent_bundles, tmp_path, monkeypatch):
    """Let the admission child do something else than check, and return its verdict."""

    def admitted(script, **limits):
        release = RunningRelease(name="digits", version="1.0.0", bundle_sha256=agent_bundles.v1.sha256)
        request = AdmissionRequest(model=ModelRef(path="slot", release=release), profile="p", compat_hash="c" * 64)
        script = script.replace("\n", "\n    ")
        (tmp_path / "sitecustomize.py").write_text(f"import sys\nif '-m' in sys.orig_argv:\n    {script}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        return AdmissionProcess(**limits).admit(request)

    return admitted


@pytest.mark.parametrize(
    "script",
    ["import threading\nthreading.Event().wait()", "while True:\n    pass"],
    ids=["sleeps", "burns its processor time"],
)
def test_an_admission_that_hangs_is_ended_at_its_deadline(child_that, script):
    verdict = child_that(script, deadline_s=1.0, starved_s=300.0)
    assert (verdict.kind, verdict.cause) == ("refused", "deadline")
    assert verdict.detail == "admission took longer than 1 s of its own"


def test_an_admission_that_the_machine_keeps_from_its_work_is_postponed(child_that):
    verdict = child_that("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", deadline_s=1.0)
    assert (verdict.kind, verdict.cause) == ("postponed", "starved")
    assert verdict.detail.endswith("s: the machine kept it from its work")


def test_an_admission_that_uses_up_its_processor_time_at_once_is_refused_and_not_taken_for_killed(child_that):
    script = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 9))\nwhile True:\n    pass"
    verdict = child_that(script, deadline_s=300.0)
    assert (verdict.kind, verdict.cause) == ("refused", "deadline")


def test_an_admission_leaves_no_folder_behind_even_if_it_is_killed(child_that, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    verdict = child_that("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", deadline_s=60.0)
    assert (verdict.kind, verdict.cause, list(folder.iterdir())) == ("postponed", "killed", [])


def test_an_admission_that_cannot_be_started_is_a_machine_that_says_no(monkeypatch):
    release = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)
    request = AdmissionRequest(model=ModelRef(path="slot", release=release), profile="p", compat_hash="c" * 64)
    monkeypatch.setattr(sys, "executable", "/gone/python")
    with pytest.raises(StorageError) as raised:
        AdmissionProcess(deadline_s=1.0).admit(request)
    assert raised.value.message == "cannot start the admission: No such file or directory"


def test_the_admission_child_has_no_network_writes_no_files_and_has_bounded_memory(tmp_path):
    script = (
        "import os, signal, socket, sys\n"
        "from device_agent.process_bounds import leave_network, limit_resources\n"
        "left = leave_network()\n"
        "limit_resources(cpu_s=10, open_files=64, memory_bytes=256 << 20)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "try:\n    wrote = os.write(file, b'x')\nexcept OSError as error:\n    wrote = error.strerror\n"
        "try:\n    bytearray(300 << 20)\nexcept MemoryError:\n    wrote += ', out of memory'\n"
        "print(left, [name for _, name in socket.if_nameindex() if name != 'lo'], wrote)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, text=True)
    if ran.stdout.startswith("False"):
        pytest.skip("this kernel lets the test make no network namespace")
    assert ran.stdout == "True [] File too large, out of memory\n"


def admitted(made, tmp_path, agent_tools, *, busy=False, alone=True, **changes):
    path = tmp_path / f"{made.sha256}.bundle"
    path.write_bytes(made.data)
    release = RunningRelease(name=made.name, version=made.version, bundle_sha256=made.sha256)
    model = ModelRef(path=str(path), release=release)
    request = AdmissionRequest(model=model, profile=agent_tools.PROFILE, compat_hash=agent_tools.COMPAT)
    return InProcessAdmission(busy=lambda: busy, alone=alone).admit(msgspec.structs.replace(request, **changes))


def test_a_model_over_its_size_or_its_memory_is_refused_by_name(agent_bundles, tmp_path, agent_tools, monkeypatch):
    manifest = agent_bundles.v1.manifest
    size = next(one.size_bytes for one in manifest.members if one.path == manifest.model)
    data = agent_tools.model_file("v1")
    large = agent_tools.make_bundle(data, "8.0.0", budgets=Budgets(model_bytes=size - 1))
    verdict = admitted(large, tmp_path, agent_tools)
    assert (verdict.cause, verdict.detail) == ("model-size", f"the model has {size} bytes, the budget is {size - 1}")
    greedy = agent_tools.make_bundle(data, "8.0.1", budgets=Budgets(arena_bytes=1000))
    monkeypatch.setattr(checks, "peak_rss_bytes", iter([100 << 20, 190 << 20, 190 << 20]).__next__)
    verdict = admitted(greedy, tmp_path, agent_tools)
    assert verdict.cause == "memory-budget"
    assert verdict.detail == f"the checks took {90 << 20} bytes, the budget is 1000 for activations"


def test_a_model_whose_answers_no_application_could_be_given_is_refused(
    agent_bundles, tmp_path, agent_tools, monkeypatch
):
    monkeypatch.setattr(inference_protocol, "ANSWER_TENSORS_LIMIT_BYTES", 4 + 2 * 4 + 10 * 4)
    assert admitted(agent_bundles.v1, tmp_path, agent_tools).kind == "passed"
    monkeypatch.setattr(inference_protocol, "ANSWER_TENSORS_LIMIT_BYTES", 51)
    verdict = admitted(agent_bundles.v1, tmp_path, agent_tools)
    assert (verdict.kind, verdict.cause) == ("refused", "answer-size")
    assert verdict.detail == "the model answers with 52 bytes of tensors, and an answer has room for 51"


def test_a_model_that_keeps_memory_at_each_inference_is_refused(agent_bundles, tmp_path, agent_tools, monkeypatch):
    kept, plain = [], LoadedModel.invoke

    def leaking(self, inputs):
        kept.append(np.ones(64 << 10, np.uint8))
        return plain(self, inputs)

    def from_bundle(bundle, **options):
        model = plainly(bundle, **options)
        model.invoke = lambda inputs: leaking(model, inputs)
        return model

    plainly = LoadedModel.from_bundle
    monkeypatch.setattr(LoadedModel, "from_bundle", from_bundle)
    verdict = admitted(agent_bundles.v1, tmp_path, agent_tools)
    assert (verdict.kind, verdict.cause) == ("refused", "memory-leak")
    assert "inferences of one input kept" in verdict.detail
    crowded = admitted(agent_bundles.v1, tmp_path, agent_tools, alone=False)
    assert (crowded.kind, crowded.cause) == ("passed", "all-checks")


def test_models_that_fit_alone_must_fit_together(agent_bundles, tmp_path, agent_tools):
    beside = tmp_path / "beside.bundle"
    beside.write_bytes(agent_bundles.v5.data)
    release = RunningRelease(name="digits", version="5.0.0", bundle_sha256=agent_bundles.v5.sha256)
    whole = ModelRef(path=str(beside), release=release)
    assert admitted(agent_bundles.v1, tmp_path, agent_tools, beside=(whole,)).kind == "passed"
    gone = msgspec.structs.replace(whole, path=str(tmp_path / "gone.bundle"))
    verdict = admitted(agent_bundles.v1, tmp_path, agent_tools, beside=(gone,))
    assert (verdict.kind, verdict.cause) == ("refused", "memory-together")


def test_a_board_that_is_busy_cannot_tell_latency_and_is_asked_again(agent_bundles, tmp_path, agent_tools):
    assert admitted(agent_bundles.too_slow, tmp_path, agent_tools).cause == "latency-budget"
    verdict = admitted(agent_bundles.too_slow, tmp_path, agent_tools, busy=True)
    assert (verdict.kind, verdict.cause) == ("postponed", "busy")
