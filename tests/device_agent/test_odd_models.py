# SPDX-License-Identifier: Apache-2.0
"""Models that are odd and legal: they answer right, or are refused in one sentence that says why; no worker dies."""

import contextlib

import numpy as np
import pytest

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.admission.checks import admit
from device_agent.client import InferenceClient
from device_agent.core.serving import (
    AdmissionRequest,
    Collected,
    ModelFaulted,
    ModelRef,
    PlannedModel,
    Serving,
    ServingPlan,
)
from edgefleet.contracts import bundle as bundle_format
from edgefleet.contracts import manifest as m
from edgefleet.contracts.errors import ModelFailedError, UnsupportedModelError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.litert import LiteRtInterpreter

#: Ends a test that fails.
LIMIT_S = 120.0
COMPAT = "c" * 64
VARYING = "output 0 of the model has the shape [3], where the model says [1]: its size depends on the input"


def varying():
    """Answers with as many numbers as its input says."""
    graph = GraphWriter()
    given, made = graph.tensor([], dtype="float32"), graph.tensor([1], dtype="float32")
    zero, one = (graph.tensor([], dtype="float32", data=np.float32(value)) for value in (0.0, 1.0))
    graph.operator("RANGE", [zero, given, one], [made])
    return flatbuffer(graph.case("varying", {given: np.float32(1.0)}, [made]).graph)


def constant():
    """Answers with its input."""
    graph = GraphWriter()
    given, made = graph.tensor([], dtype="float32"), graph.tensor([], dtype="float32")
    graph.operator("RELU", [given], [made], version=1)
    return flatbuffer(graph.case("constant", {given: np.float32(1.0)}, [made]).graph)


def packed(folder, model, version, inputs):
    """Store a bundle of a model with vectors of these inputs, and return its reference."""
    interpreter = LiteRtInterpreter(model, kernels="reference")
    outputs = [interpreter.invoke([value])[0] for value in inputs]
    members = {
        "model/model.tflite": model,
        "golden/input.bin": b"".join(value.tobytes() for value in inputs),
        "golden/output.bin": b"".join(value.tobytes() for value in outputs),
    }
    manifest = m.Manifest(
        format_version=1,
        name="odd",
        version=version,
        task="regression",
        metric="mse",
        precision="float32",
        profile=m.ProfileReference(id="linux-x86_64", compat_hash=COMPAT),
        runtime=m.RuntimeRequirement(kind="litert", minimum_version="2.0.0", numerics="litert/1"),
        interface=m.Interface(inputs=interpreter.inputs, outputs=interpreter.outputs),
        preprocessing=m.Preprocessing(),
        tolerances=m.Tolerances(unit="absolute", reference=1e-6, production=1e-3),
        budgets=m.Budgets(),
        parity=m.ParityVectors(samples=len(inputs), inputs=("golden/input.bin",), outputs=("golden/output.bin",)),
        model="model/model.tflite",
        members=bundle_format.describe_members(members),
        lineage=m.Lineage(source_sha256="0" * 64, recipe_sha256="1" * 64),
    )
    path = folder / f"{version}.bundle"
    path.write_bytes(bundle_format.pack(manifest, members))
    sha256 = bundle_format.open_bundle(path).sha256
    return ModelRef(path=str(path), release=RunningRelease(name="odd", version=version, bundle_sha256=sha256))


def admitted(ref):
    return admit(AdmissionRequest(model=ref, profile="linux-x86_64", compat_hash=COMPAT), busy=lambda: False)


@pytest.fixture
def serve(tmp_path, agent_tools):
    """Let a worker serve one plan; returns its process, and a function that waits for a kind of report."""
    with contextlib.ExitStack() as held:

        def start(planned):
            listener = held.enter_context(contextlib.closing(listen(tmp_path / "worker.sock")))
            process = WorkerProcess(listener, readable=[tmp_path])
            held.callback(process.stop)
            process.start()
            seen = []

            def reported(kind):
                def look():
                    seen.extend(process.reports())
                    return next((report for report in seen if isinstance(report, kind)), None)

                return agent_tools.wait_until(look, kind.__name__)

            process.serve(ServingPlan(number=1, models=(planned,)))
            reported(Serving)
            return process, reported

        yield start


@pytest.mark.parametrize("role", ["shadow", "trial"])
def test_a_model_whose_answers_vary_in_size_is_at_fault_and_nobody_else_is_harmed(tmp_path, serve, role):
    one = np.float32(1.0)
    good, odd = packed(tmp_path, constant(), "1.0.0", [one]), packed(tmp_path, varying(), "2.0.0", [one])
    assert admitted(odd).kind == "passed"  # no vector shows it
    planned = (
        PlannedModel(primary=good, companion=odd, companion_role="shadow", share=1.0)
        if role == "shadow"
        else PlannedModel(primary=odd, role="trial", companion=good, companion_role="fallback", share=1.0)
    )
    process, reported = serve(planned)
    with InferenceClient(tmp_path / "worker.sock", timeout_s=LIMIT_S) as client:
        for value in (1.0, 3.0, 3.0):
            answer = client.infer(np.array(value, np.float32))
            if value > 1.0:
                assert (answer.status, answer.release, answer.outputs) == ("ok", "odd 1.0.0", ((value,),))
    fault = reported(ModelFaulted)
    assert (fault.bundle_sha256, fault.kind, fault.detail) == (odd.release.bundle_sha256, "failed", VARYING)
    process.collect()
    assert {window.role: window.failed for window in reported(Collected).models}[role] == 2


def test_an_output_without_a_value_is_refused_by_name():
    graph = GraphWriter()
    given, made = graph.tensor([1, 4], dtype="float32"), graph.tensor([1, 0], dtype="float32")
    graph.operator("SLICE", [given, graph.integers([0, 0]), graph.integers([1, 0])], [made], version=1)
    model = flatbuffer(graph.case("empty", {given: np.zeros((1, 4), np.float32)}, [made]).graph)
    with pytest.raises(UnsupportedModelError) as caught:
        LiteRtInterpreter(model)
    assert (
        caught.value.message == f"the model's tensor 't{made}' has the shape [1, 0]: an input or output without a value"
    )


def test_an_output_that_comes_out_empty_is_told():
    with pytest.raises(ModelFailedError) as caught:
        LiteRtInterpreter(varying()).invoke([np.float32(0.0)])
    assert caught.value.message == "an output of the model came out without a value: its size depends on the input"


def remembering():
    """Answers with the sum of all its inputs so far."""
    graph = GraphWriter()
    given, old, summed = (graph.tensor([1, 4], dtype="float32") for _ in range(3))
    handle, first = graph.tensor([], dtype="resource"), graph.tensor([], dtype="resource")
    value = graph.tensor([1, 4], dtype="float32", data=np.zeros((1, 4), np.float32))
    graph.operator("VAR_HANDLE", [], [handle], container="", sharedName="sum")
    graph.operator_once("VAR_HANDLE", [], [first], container="", sharedName="sum")
    graph.operator_once("ASSIGN_VARIABLE", [first, value], [])
    graph.operator("CALL_ONCE", [], [], initSubgraphIndex=1)
    graph.operator("READ_VARIABLE", [handle], [old])
    graph.operator("ADD", [given, old], [summed], version=1)
    graph.operator("ASSIGN_VARIABLE", [handle, summed], [])
    return flatbuffer(graph.case("remembering", {given: np.zeros((1, 4), np.float32)}, [summed]).graph)


def test_a_model_with_a_memory_is_refused_for_that(tmp_path):
    inputs = [np.full((1, 4), value, np.float32) for value in (1.0, 2.0)]
    verdict = admitted(packed(tmp_path, remembering(), "1.0.0", inputs))
    assert (verdict.kind, verdict.cause, verdict.detail) == (
        "refused",
        "stateful",
        "asked the same input again, it answers otherwise: it keeps state between inferences, or draws lots",
    )
    assert admitted(packed(tmp_path, remembering(), "2.0.0", inputs[:1])).cause == "stateful"
