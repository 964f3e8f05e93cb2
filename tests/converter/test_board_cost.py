# SPDX-License-Identifier: Apache-2.0
"""What a model costs on a board is predicted as TFLM counts it: within 1 %, and never under."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.offline_plan import embed_plan, plan_for
from converter.adapters.flatbuffers.reading import read_facts
from converter.core.board.arena import Plan, greedy, live_buffers
from converter.core.board.cost import Interpreter, arena_memory, latency, macs, predict
from converter.core.board.tflm_structures import structure_bytes
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import ArenaPlan
from edgefleet.runtimes.tflm import TflmInterpreter
from edgefleet.runtimes.tflm_arena import measure_arena
from firmware_profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
DIGITS = sorted((ROOT / "examples" / "digits").glob("*_float32.tflite"))
SHARED_MODELS = [
    "ad_float32", "ad_int8", "ic_resnet8_float32", "ic_resnet8_int8", "kws_int8", "vww_float32", "vww_int8",
]  # fmt: skip
WHEEL = Interpreter(pointer_bytes=8, wheel=True)
#: The arena's own start is aligned, for which the interpreter may need a little more.
_ALIGNING_BYTES = 15

needs_tflm = pytest.mark.skipif(
    find_spec("tflite_micro") is None, reason="no tflite_micro: pip install tflite-micro (the extra 'converter')"
)


def tensor(*shape: int, dtype: str = "int8") -> TensorFacts:
    return TensorFacts("t", shape, dtype, 0, (1.0,), (0,))


def one_operator(name: str, tensors: list[TensorFacts]) -> GraphFacts:
    inputs, output = tuple(range(len(tensors) - 1)), len(tensors) - 1
    return GraphFacts((OperatorFacts(name, 1, inputs, (output,)),), tuple(tensors), (0,), (output,), 1, 1000, None)


def one_operator_model(name: str, inputs: list[tuple[tuple[int, ...], Any]], output: tuple[int, ...]) -> bytes:
    """Return a float model of one operator; an input is a shape, with its values where it is a constant."""
    model, graph, operator, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 1
    operator.inputs, operator.outputs = list(range(len(inputs))), [len(inputs)]
    options = _OPTIONS.get(name)
    if options is not None:
        operator.builtinOptions = getattr(schema, f"{options}T")()
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    model.buffers, graph.tensors = [schema.BufferT()], []
    for shape, values in [*inputs, (output, None)]:
        described = schema.TensorT()
        described.shape, described.name, described.type = list(shape), b"t", schema.TensorType.FLOAT32
        if values is not None:
            constant = np.asarray(values)
            described.type = schema.TensorType.INT32 if constant.dtype == np.int32 else described.type
            described.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(constant.tobytes(), np.uint8)
        graph.tensors.append(described)
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [len(inputs)]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


_OPTIONS = {
    "CONCATENATION": "ConcatenationOptions", "DEPTH_TO_SPACE": "DepthToSpaceOptions", "GATHER": "GatherOptions",
    "LEAKY_RELU": "LeakyReluOptions", "L2_NORMALIZATION": "L2NormOptions", "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions", "MUL": "MulOptions", "REDUCE_MAX": "ReducerOptions", "SUB": "SubOptions",
    "SUM": "ReducerOptions",
}  # fmt: skip
_SHAPE = (1, 4, 4, 2)
_AXES = ((2,), np.array([1, 2], np.int32))
_MARGINS = ((4, 2), np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
_SINGLE = [
    *((name, [(_SHAPE, None)], _SHAPE) for name in (
        "ABS", "ELU", "EXP", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU", "LOGISTIC", "LOG_SOFTMAX", "NEG", "RELU",
        "RELU6", "RSQRT", "TANH",
    )),
    *((name, [(_SHAPE, None), (_SHAPE, np.ones(_SHAPE, np.float32))], _SHAPE) for name in (
        "MAXIMUM", "MUL", "SQUARED_DIFFERENCE", "SUB",
    )),
    ("CONCATENATION", [(_SHAPE, None), (_SHAPE, np.ones(_SHAPE, np.float32))], (2, 4, 4, 2)),
    ("GATHER", [(_SHAPE, None), ((1,), np.array([0], np.int32))], _SHAPE),
    ("MEAN", [(_SHAPE, None), _AXES], (1, 2)),
    ("REDUCE_MAX", [(_SHAPE, None), _AXES], (1, 2)),
    ("SUM", [(_SHAPE, None), _AXES], (1, 2)),
    ("MIRROR_PAD", [(_SHAPE, None), _MARGINS], (1, 6, 6, 2)),
    ("PAD", [(_SHAPE, None), _MARGINS], (1, 6, 6, 2)),
]  # fmt: skip


def assert_never_under_and_within_a_hundredth(predicted: int, measured: int) -> None:
    assert measured <= predicted <= measured * 1.01


@pytest.mark.parametrize("name", SHARED_MODELS)
@needs_tflm
def test_the_arena_is_predicted_as_tflm_counts_it(shared_dir: Path, name: str) -> None:
    model = (shared_dir / "models" / f"{name}.tflite").read_bytes()
    facts = read_facts(model)
    predicted = arena_memory(facts, greedy(live_buffers(facts)), WHEEL)
    assert_never_under_and_within_a_hundredth(predicted.total_bytes, measure_arena(model).total_bytes)


@pytest.mark.parametrize("path", DIGITS, ids=lambda path: path.stem)
@needs_tflm
def test_the_arena_of_digits_is_predicted_as_tflm_counts_it(path: Path) -> None:
    model = path.read_bytes()
    facts = read_facts(model)
    predicted = arena_memory(facts, greedy(live_buffers(facts)), WHEEL)
    assert_never_under_and_within_a_hundredth(predicted.total_bytes, measure_arena(model).total_bytes)


@pytest.mark.parametrize(("name", "inputs", "output"), _SINGLE, ids=[name for name, *_ in _SINGLE])
@needs_tflm
def test_the_structures_of_an_operator_are_as_large_as_tflms(
    name: str, inputs: list[tuple[tuple[int, ...], Any]], output: tuple[int, ...]
) -> None:
    model = one_operator_model(name, inputs, output)
    facts = read_facts(model)
    predicted, measured = arena_memory(facts, greedy(live_buffers(facts)), WHEEL), measure_arena(model)
    assert predicted.head_bytes == measured.head_bytes
    # One that keeps its structure for integers only is predicted as if it kept it always.
    assert 0 <= predicted.tail_bytes - measured.tail_bytes <= (48 if name == "LOG_SOFTMAX" else 0)


@needs_tflm
def test_the_arena_of_an_embedded_plan_is_predicted_as_tflm_counts_it(shared_dir: Path) -> None:
    model = (shared_dir / "models" / "vww_int8.tflite").read_bytes()
    _, best = plan_for(model)
    predicted = arena_memory(read_facts(model), best, WHEEL)
    assert_never_under_and_within_a_hundredth(predicted.total_bytes, measure_arena(embed_plan(model, best)).total_bytes)


@pytest.mark.parametrize("name", ["ad_int8", "kws_int8"])
@needs_tflm
def test_a_model_loads_in_the_arena_that_it_needs_and_in_no_smaller_one(shared_dir: Path, name: str) -> None:
    model = (shared_dir / "models" / f"{name}.tflite").read_bytes()
    facts = read_facts(model)
    needed_bytes = arena_memory(facts, greedy(live_buffers(facts)), WHEEL).needed_bytes
    TflmInterpreter(model, arena_bytes=needed_bytes + _ALIGNING_BYTES).close()
    with pytest.raises(UnsupportedModelError):
        TflmInterpreter(model, arena_bytes=int(needed_bytes * 0.99))


def test_planning_a_small_model_needs_more_than_running_it(shared_dir: Path) -> None:
    facts = read_facts((shared_dir / "models" / "ad_int8.tflite").read_bytes())
    memory = arena_memory(facts, greedy(live_buffers(facts)), WHEEL)
    assert memory.total_bytes < memory.needed_bytes


@pytest.mark.parametrize(
    ("fields", "four", "eight"),
    [("ppi", 12, 24), ("pppppppp", 32, 64), ("ib", 8, 8), ("bd", 16, 16), ("hhhihi", 20, 20), ("", 0, 0)],
)
def test_structures_are_laid_out_as_a_compiler_does(fields: str, four: int, eight: int) -> None:
    assert (structure_bytes(fields, 4), structure_bytes(fields, 8)) == (four, eight)


def test_a_board_with_four_byte_pointers_needs_less() -> None:
    facts = read_facts(DIGITS[0].read_bytes())
    plan = greedy(live_buffers(facts))
    narrow, wide = (arena_memory(facts, plan, Interpreter(pointer_bytes=width)) for width in (4, 8))
    assert narrow.head_bytes == wide.head_bytes == plan.size_bytes
    assert narrow.tail_bytes < wide.tail_bytes < arena_memory(facts, plan, WHEEL).tail_bytes


def test_variables_lie_behind_the_plan() -> None:
    facts = one_operator("ADD", [tensor(1, 64), tensor(1, 64), tensor(1, 64)])
    plan = Plan((), (), 0, 0, proved=True)
    without = arena_memory(facts, plan, Interpreter())
    assert arena_memory(facts, plan, Interpreter(), variables={1}).tail_bytes - without.tail_bytes == 64


@pytest.mark.parametrize(
    ("name", "tensors", "expected"),
    [
        ("CONV_2D", [tensor(1, 8, 8, 3), tensor(4, 3, 3, 3), tensor(1, 8, 8, 4)], 8 * 8 * 4 * 27),
        ("DEPTHWISE_CONV_2D", [tensor(1, 8, 8, 3), tensor(1, 3, 3, 3), tensor(1, 8, 8, 3)], 8 * 8 * 3 * 9),
        ("FULLY_CONNECTED", [tensor(1, 20), tensor(5, 20), tensor(1, 5)], 100),
        ("TRANSPOSE_CONV", [tensor(4), tensor(2, 3, 3, 5), tensor(1, 4, 4, 5), tensor(1, 8, 8, 2)], 80 * 2 * 9),
        ("BATCH_MATMUL", [tensor(2, 3, 4), tensor(2, 4, 5), tensor(2, 3, 5)], 2 * 3 * 5 * 4),
        ("ADD", [tensor(1, 20), tensor(1, 20), tensor(1, 20)], 0),
    ],
)
def test_multiplications_are_counted_from_shapes(name: str, tensors: list[TensorFacts], expected: int) -> None:
    facts = one_operator(name, tensors)
    assert macs(facts.operators[0], facts) == expected


def test_a_microcontroller_gets_flash_arena_and_latency_and_how_they_were_made() -> None:
    model = DIGITS[0].read_bytes()
    facts, board = read_facts(model), load_profile("mps2-an386")
    plan, _ = plan_for(model)
    cost = predict(facts, plan, board)
    assert cost.flash_bytes - 16 < len(model) <= cost.flash_bytes
    memory = arena_memory(facts, plan, Interpreter())
    assert cost.arena == ArenaPlan(
        planner="tflm-greedy", head_bytes=6144, bound_bytes=6144, total_bytes=memory.total_bytes
    )
    assert cost.needed_arena_bytes == memory.needed_bytes
    assert cost.latency_us is not None
    assert cost.method == (
        "flash: the model's bytes, without the firmware's code; "
        "arena: TFLM's structures and its reference kernels' scratch; "
        "latency: 3 cycles a multiplication in 8 bits at 25000000 Hz, uncalibrated"
    )


def test_scratch_that_is_not_counted_is_said() -> None:
    facts, board = read_facts(DIGITS[0].read_bytes()), load_profile("mps2-an386")
    runtime = msgspec.structs.replace(board.runtime, kernels="cmsis-nn")
    cost = predict(facts, greedy(live_buffers(facts)), msgspec.structs.replace(board, runtime=runtime))
    assert "reference kernels' scratch (CMSIS-NN's own scratch comes on top); " in cost.method


def test_a_board_without_tflm_has_no_arena_and_one_without_a_clock_no_latency() -> None:
    facts = read_facts(DIGITS[0].read_bytes())
    cost = predict(facts, None, load_profile("linux-x86_64"))
    assert (cost.arena, cost.needed_arena_bytes, cost.latency_us) == (None, None, None)
    assert cost.method == "flash: the model's bytes, without the firmware's code"


def test_an_operator_without_known_structures_is_named() -> None:
    facts = one_operator("STFT", [tensor(2, 3, 4), tensor(2, 4, 5), tensor(2, 3, 5)])
    cost = predict(facts, greedy(live_buffers(facts)), load_profile("mps2-an386"))
    assert "assumed for STFT" in cost.method


def test_twice_the_work_takes_twice_as_long_and_wider_values_longer() -> None:
    board = load_profile("mps2-an386")
    small, large, wide = (
        latency(one_operator("FULLY_CONNECTED", [tensor(1, 20), tensor(rows, 20), tensor(1, rows, dtype=dtype)]), board)
        for rows, dtype in ((5, "int8"), (10, "int8"), (5, "int16"))
    )
    assert small is not None
    assert large == wide == 2 * small
