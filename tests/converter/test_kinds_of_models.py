# SPDX-License-Identifier: Apache-2.0
"""Models of many kinds: what a board computes in floats, what no quantizer reaches, what no runtime has."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import converter
from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from converter.core.board.checks import check_board, check_latency, check_quantizable, precision_notes
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import BudgetError, UnsupportedModelError
from edgefleet.contracts.evidence import Latency
from edgefleet.contracts.manifest import Budgets
from edgefleet.contracts.profile import Profile
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.parity import check_parity
from firmware_profiles import load_profile

FLOAT = TensorFacts("f", (1, 4), "float32", 0)
INT8 = TensorFacts("q", (1, 4), "int8", 0, (0.1,), (0,))
WEIGHTS = TensorFacts("w", (4, 4), "int8", 16, (0.1,), (0,))
CLASS = TensorFacts("c", (1,), "int64", 0)


def graph(*tensors: TensorFacts, operators: tuple[OperatorFacts, ...]) -> GraphFacts:
    return GraphFacts(operators, tensors, (0,), (len(tensors) - 1,), 1, 100, None)


def operator(name: str, inputs: tuple[int, ...], output: int) -> OperatorFacts:
    return OperatorFacts(name, 1, inputs, (output,))


INTEGER_CLASS = graph(INT8, CLASS, operators=(operator("ARG_MAX", (0,), 1),))
DYNAMIC = graph(FLOAT, WEIGHTS, FLOAT, operators=(operator("FULLY_CONNECTED", (0, 1), 2),))
FLOAT_ENDS = graph(
    FLOAT, INT8, INT8, FLOAT,
    operators=(operator("QUANTIZE", (0,), 1), operator("RELU", (1,), 2), operator("DEQUANTIZE", (2,), 3)),
)  # fmt: skip
ONE_IN_FLOAT = graph(
    INT8, FLOAT, FLOAT, INT8,
    operators=(operator("DEQUANTIZE", (0,), 1), operator("LEAKY_RELU", (1,), 2), operator("QUANTIZE", (2,), 3)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "precision", "notes"),
    [
        (INTEGER_CLASS, "int8", ()),
        (DYNAMIC, "dynamic-int8", ()),
        (FLOAT_ENDS, "mixed", ()),
        (ONE_IN_FLOAT, "mixed", ("computed in float, not in integers: LEAKY_RELU",)),
    ],
)
def test_what_a_quantized_model_computes_in(facts: GraphFacts, precision: str, notes: tuple[str, ...]) -> None:
    assert facts.precision() == precision
    assert precision_notes(facts) == notes
    for board in ("linux-x86_64", "raspberry-pi-4"):  # LiteRT runs them all; they are taken as they are
        check_board(facts, load_profile(board))


def test_control_flow_is_named_before_it_is_quantized() -> None:
    loop = graph(FLOAT, FLOAT, operators=(operator("WHILE", (0,), 1),))
    with pytest.raises(UnsupportedModelError) as refused:
        check_quantizable(loop)
    assert refused.value.message == "the model has the operator WHILE, whose inner graph cannot be quantized"
    check_quantizable(replace(loop, operators=(operator("TANH", (0,), 1),)))


def _sum_of(count: int) -> bytes:
    writer = GraphWriter()
    given = [writer.tensor([1, 2], dtype="float32") for _ in range(count)]
    made = writer.tensor([1, 2], dtype="float32")
    writer.operator("ADD_N", given, [made])
    return flatbuffer(writer.case("sum", {one: np.zeros((1, 2), np.float32) for one in given}, [made]).graph)


def _converted_sum(folder: Path, count: int) -> converter.Converted:
    path = folder / "sum.tflite"
    path.write_bytes(_sum_of(count))
    draw = np.random.default_rng(0)
    samples = {f"t{one}": draw.normal(size=(8, 2)).astype(np.float32) for one in range(count)}
    return converter.convert(
        path, profile="linux-x86_64", name="sum", version="1.0.0", calibration=samples, task="regression"
    )


def test_the_vectors_of_many_inputs_are_in_their_order(tmp_path: Path) -> None:
    made = _converted_sum(tmp_path, 12)
    assert made.manifest.parity.inputs == tuple(f"golden/parity_input_{one}.bin" for one in range(12))
    bundle = open_bundle(made.write(tmp_path))
    assert check_parity(LoadedModel.from_bundle(bundle, kernels="reference"), bundle, "reference").worst == 0.0


def test_more_inputs_than_a_bundle_has_room_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        _converted_sum(tmp_path, 65)
    assert refused.value.message == "the model has 66 inputs and outputs, and a bundle has room for 59"


def test_a_model_that_is_too_slow_on_the_boards_own_architecture() -> None:
    board = replace_budgets(Budgets(latency_p99_us=100))
    slow = Latency(host="x86_64, Linux", p50_us=101.0, p99_us=300.0, runs=100)
    with pytest.raises(BudgetError) as refused:
        check_latency(slow, board, architecture="x86_64")
    assert refused.value.message == (
        "an inference takes 101 µs here (median); profile 'linux-x86_64' allows 100 (budgets.latency_p99_us)"
    )
    check_latency(slow, board, architecture="aarch64")  # says nothing of the board
    check_latency(Latency(host="x86_64, Linux", p50_us=99.0, p99_us=300.0, runs=100), board, architecture="x86_64")


def replace_budgets(budgets: Budgets) -> Profile:
    return msgspec.structs.replace(load_profile("linux-x86_64"), budgets=budgets)
