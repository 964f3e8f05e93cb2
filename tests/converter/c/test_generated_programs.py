# SPDX-License-Identifier: Apache-2.0
"""Generated programs answer as the interpreters do: static, updatable, under sanitizers, two at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.operator_cases.case import Case, GraphWriter, flatbuffer
from benchmarks.operator_cases.oracles import NUMERICS, answers
from converter.c.core.program import Target
from converter.c.generate import Generated, generate
from edgefleet.contracts.manifest import Numerics

MODELS = ("kws_int8", "ic_resnet8_int8", "ad_int8", "vww_int8")
_SAMPLES = 3
Array = npt.NDArray[Any]
Build = Callable[..., Any]


def _joined(steps: list[list[Array]] | tuple[tuple[Array, ...], ...]) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for step in steps for array in step)


def _shared(folder: Path, name: str) -> bytes:
    path = folder / "models" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is missing: EDGEFLEET_SHARED names the folder that holds models/")
    return path.read_bytes()


def _generated(model: bytes, numerics: Numerics = "tflm/1", name: str = "probe") -> Generated:
    return generate(model, name=name, target=Target(numerics, "portable"))


def _random_inputs(generated: Generated, samples: int = _SAMPLES) -> list[list[Array]]:
    random = np.random.default_rng(11)
    return [[random.integers(-128, 128, end.shape).astype(np.int8) for end in generated.inputs] for _ in range(samples)]


@pytest.mark.parametrize("name", MODELS)
def test_shared_models_answer_as_tflm_does(host_program: Build, shared_folder: Path, name: str) -> None:
    model = _shared(shared_folder, name)
    generated = _generated(model)
    steps = _random_inputs(generated)
    expected = _joined(answers(model, "tflm/1", steps))
    assert host_program(generated).outputs(_joined(steps)) == expected
    assert host_program(generated, sanitized=True, updatable=True).outputs(_joined(steps), mode="twins") == expected


def test_a_shared_model_answers_as_litert_does(host_program: Build, shared_folder: Path) -> None:
    model = _shared(shared_folder, "kws_int8")
    generated = _generated(model, "litert/1")
    steps = _random_inputs(generated)
    assert host_program(generated).outputs(_joined(steps)) == _joined(answers(model, "litert/1", steps))


def _streaming(bias: int = 3, *, first_values: bool = True) -> Case:
    """Return a model that adds what it heard before; ``bias`` is all that its weights are."""
    graph = GraphWriter()
    heard, handle = graph.tensor([1, 8], 0.1, 4), graph.tensor([], dtype="resource")
    old, summed, biased = (graph.tensor([1, 8], 0.1, 4) for _ in range(3))
    graph.operator("VAR_HANDLE", [], [handle], container="", sharedName="level")
    if first_values:
        first = graph.tensor([], dtype="resource")
        value = graph.tensor([1, 8], 0.1, 4, data=np.arange(-4, 4, dtype=np.int8))
        graph.operator_once("VAR_HANDLE", [], [first], container="", sharedName="level")
        graph.operator_once("ASSIGN_VARIABLE", [first, value], [])
        graph.operator("CALL_ONCE", [], [], initSubgraphIndex=1)
    graph.operator("READ_VARIABLE", [handle], [old])
    graph.operator("ADD", [heard, old], [summed])
    graph.operator("ASSIGN_VARIABLE", [handle, summed], [])
    weight = graph.tensor([1, 8], 0.1, 0, data=np.full((1, 8), bias, np.int8))
    graph.operator("ADD", [summed, weight], [biased])
    random = np.random.default_rng(5)
    steps = [{heard: random.integers(-40, 40, (1, 8)).astype(np.int8)} for _ in range(5)]
    return graph.case("streaming", steps, [biased])


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("updatable", [False, True])
def test_state_lives_from_inference_to_inference(host_program: Build, numerics: Numerics, updatable: bool) -> None:
    case = _streaming()
    model = flatbuffer(case.graph)
    program = host_program(_generated(model, numerics), sanitized=True, updatable=updatable)
    assert program.outputs(_joined(case.steps)) == _joined(answers(model, numerics, case.steps))


def test_binding_anew_begins_with_first_values(host_program: Build) -> None:
    case = _streaming()
    model = flatbuffer(case.graph)
    expected = b"".join(_joined(answers(model, "tflm/1", [step])) for step in case.steps)
    assert host_program(_generated(model)).outputs(_joined(case.steps), mode="reset") == expected


def test_state_without_first_values_begins_at_the_zero_point(host_program: Build) -> None:
    case = _streaming(first_values=False)
    model = flatbuffer(case.graph)
    expected = _joined(answers(model, "tflm/1", case.steps))
    assert host_program(_generated(model)).outputs(_joined(case.steps)) == expected


def test_other_weights_run_in_the_same_firmware(host_program: Build) -> None:
    old, new = _streaming(bias=3), _streaming(bias=-90)
    program = host_program(_generated(flatbuffer(old.graph)), sanitized=True, updatable=True)
    for case in (new, old):
        model = flatbuffer(case.graph)
        done = program.run(_joined(case.steps), blob=_generated(model).blob)
        assert (done.status, done.words) == (0, "")
        assert done.output == _joined(answers(model, "tflm/1", case.steps))


def _chain(*operators: str, length: int = 8) -> Case:
    graph = GraphWriter()
    value = given = graph.tensor([1, length], 1 / 256, -128)
    for name in operators:
        made = graph.tensor([1, length], 1 / 256, -128)
        inputs = [value, value] if name == "MUL" else [value]
        options = {"beta": 1.0} if name == "SOFTMAX" else {}
        graph.operator(name, inputs, [made], **options)
        value = made
    steps = [{given: np.arange(length, dtype=np.int8).reshape(1, length) - 3}]
    return graph.case("chain", steps, [value])


def test_other_layers_run_where_their_kernels_are_there(host_program: Build) -> None:
    built, pushed = _chain("LOGISTIC", "SOFTMAX"), _chain("SOFTMAX", "LOGISTIC", "SOFTMAX", length=20)
    program = host_program(_generated(flatbuffer(built.graph)), sanitized=True, updatable=True)
    model = flatbuffer(pushed.graph)
    done = program.run(_joined(pushed.steps), blob=_generated(model).blob)
    assert (done.status, done.words) == (0, "")
    assert done.output == _joined(answers(model, "tflm/1", pushed.steps))


def test_a_kernel_that_the_firmware_lacks_is_named(host_program: Build) -> None:
    program = host_program(_generated(flatbuffer(_chain("LOGISTIC").graph)), updatable=True)
    pushed = _chain("LOGISTIC", "SOFTMAX")
    done = program.run(b"", blob=_generated(flatbuffer(pushed.graph)).blob)
    assert (done.status, done.words) == (12, "open 2 softmax/portable/exact")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda blob: b"EFB2" + blob[4:], "open 1 not a model blob"),
        (lambda blob: blob[:4] + b"\x02\x00" + blob[6:], "open 1 a model blob of another format"),
        (lambda blob: blob[:-16], "open 1 cut off"),
        (lambda blob: blob[:64], "open 1 cut off"),
        (lambda blob: blob[:16] + b"\xff\xff" + blob[18:], "open 1 damaged"),
    ],
)
def test_what_is_no_blob_of_ours_is_refused(host_program: Build, spoil: Callable[[bytes], bytes], words: str) -> None:
    generated = _generated(flatbuffer(_chain("LOGISTIC").graph))
    done = host_program(generated, sanitized=True, updatable=True).run(b"", blob=spoil(generated.blob))
    assert (done.status, done.words) == (11, words)


def test_constants_and_inputs_may_be_outputs(host_program: Build) -> None:
    graph = GraphWriter()
    given, made = graph.tensor([1, 5], 0.1, 0), graph.tensor([5, 1], 0.1, 0)
    constant = graph.tensor([3], 0.1, 0, data=np.array([7, -8, 9], np.int8))
    graph.operator("RESHAPE", [given, graph.integers([5, 1])], [made])
    case = graph.case("ends", {given: np.array([[1, 2, 3, 4, 5]], np.int8)}, [made, constant, given])
    done = host_program(_generated(flatbuffer(case.graph)), sanitized=True).outputs(_joined(case.steps))
    assert done == bytes([1, 2, 3, 4, 5]) + np.array([7, -8, 9], np.int8).tobytes() + bytes([1, 2, 3, 4, 5])


def test_two_runs_of_the_generator_give_the_same_bytes(shared_folder: Path) -> None:
    model = _shared(shared_folder, "kws_int8")
    one, other = (generate(model, name="kws", target=Target("tflm/1", "dsp")) for _ in range(2))
    assert (one.blob, one.sources) == (other.blob, other.sources)


def test_the_source_says_of_each_layer_what_it_is(shared_folder: Path) -> None:
    generated = _generated(_shared(shared_folder, "kws_int8"), name="kws")
    lines = generated.sources["kws.c"].splitlines()
    [first] = [line for line in lines if line.startswith("    /* 0: ")]
    assert "CONV_2D" in first
    assert "MACs */" in first
    assert "1x49x10x1" in first
    assert "0.584703 (83)" in first
