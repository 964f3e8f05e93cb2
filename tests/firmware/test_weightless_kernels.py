# SPDX-License-Identifier: Apache-2.0
"""What the operators without weights promise beside the reference's answers: proofs, long rows, pinned tables."""

import hashlib
import math

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.operator_cases.case import GraphWriter
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import HostKernels, Program, lowered
from converter.c.core.fixed_point import quantize_multiplier, scaled_twice, to_int8
from converter.c.core.flat_sums import FlatSum, flat_sum
from converter.c.core.lowering import LOWERINGS
from converter.c.core.moves import Axis, Move, collapsed, steps
from converter.c.core.program import Call, Lowered, Target
from edgefleet.contracts.manifest import Numerics

_PAIRS = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij")


def _lower(graph: GraphWriter, numerics: Numerics = "tflm/1") -> Lowered:
    case = graph.case("one", {}, [])
    return lowered(case.graph, Target(numerics, "portable"), LOWERINGS)[0]


def _sum(name: str, seed: int) -> GraphWriter:
    draw, graph = Draw(seed), GraphWriter()
    scales = draw.scale(0.01, 0.1), draw.scale(0.01, 0.1)
    made = float(np.float32(max(scales) * draw.real(0.5, 2)))
    operands = [graph.tensor([256, 256], scale, draw.zero_point()) for scale in scales]
    graph.operator(name, operands, [graph.tensor([256, 256], made, draw.zero_point())])
    return graph


@pytest.mark.parametrize("name", ["ADD", "SUB"])
@pytest.mark.parametrize("seed", range(8))
def test_the_flat_sum_is_right_for_every_pair(host_kernels: HostKernels, name: str, seed: int) -> None:
    graph = _sum(name, seed)
    a, b, made = (graph.values[number] for number in range(3))
    twice = 2 * max(a.scales[0], b.scales[0])
    x, y = (
        scaled_twice((values - value.zero_point) << 20, *quantize_multiplier(value.scales[0] / twice))
        for values, value in zip(_PAIRS, (a, b), strict=True)
    )
    total = x + y if name == "ADD" else x - y
    wanted = to_int8(scaled_twice(total, *quantize_multiplier(twice / ((1 << 20) * made.scales[0]))) + made.zero_point)
    case = graph.case("sum", {0: _PAIRS[0].astype(np.int8), 1: _PAIRS[1].astype(np.int8)}, [2])
    parts = lowered(case.graph, Target("tflm/1", "portable"), LOWERINGS)
    assert [call.variant for call in parts[0].calls] == ["add/portable/flat"]
    np.testing.assert_array_equal(host_kernels.run(Program(case.graph, parts), case.steps)[0][0], wanted)


def test_no_flat_sum_is_found_where_answers_are_no_sum() -> None:
    assert flat_sum(lambda a, b: to_int8(a * b >> 7), 0.5, 0.5) is None
    assert flat_sum(lambda a, b: to_int8(np.round(9.0 * a + b)), 9.0, 1.0) is None  # 9 in 28 bits is over int32
    halved = flat_sum(lambda a, b: to_int8((a + b) >> 1), 0.5, 0.5)
    assert isinstance(halved, FlatSum)


@pytest.mark.parametrize(
    ("operands", "options"),
    [
        ([([4, 5], None), ([1], [7])], {}),
        ([([], [-3]), ([4, 5], None)], {"fusedActivationFunction": 1}),
    ],
)
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
def test_a_constant_of_one_element_makes_a_table(
    name: str, operands: list[tuple[list[int], list[int] | None]], options: dict[str, int]
) -> None:
    graph = GraphWriter()
    numbers = [
        graph.tensor(shape, 0.1, 2, data=None if data is None else np.array(data, np.int8)) for shape, data in operands
    ]
    graph.operator(name, numbers, [graph.tensor([4, 5], 0.1, -4)], **options)
    assert [call.variant for call in _lower(graph).calls] == ["table/portable/bytes"]


def test_copies_take_rows_as_long_as_there_are() -> None:
    whole = collapsed([Axis(2, 12, 12), Axis(3, 4, 4), Axis(1, 4, 4)], 4)
    assert whole == Move((), 24)
    assert whole.straight
    # the channels 2..5 of an 8-channel picture of 5 x 7
    part = collapsed([Axis(5, 56, 28), Axis(7, 8, 4), Axis(4, 1, 1)], 1, in_start=2)
    assert part == Move((Axis(35, 8, 4),), 4, in_start=2)
    # every other row, backwards
    assert collapsed([Axis(3, -40, 20), Axis(20, 1, 1)], 1, in_start=80) == Move((Axis(3, -40, 20),), 20, in_start=80)
    alternating = [Axis(2, step, 3 * step) for step in (1024, 256, 64, 16, 4, 1)]
    assert collapsed(alternating, 1) is None
    assert steps((2, 3, 4), 4) == (48, 16, 4)


def _calls(lowered_operator: Lowered) -> list[str]:
    return [call.variant for call in lowered_operator.calls]


def test_what_changes_no_byte_makes_no_call() -> None:
    for name, numbers, made in (
        ("RESHAPE", [[6, 4]], [6, 4]),
        ("TRANSPOSE", [[0, 2, 1, 3]], [1, 1, 4, 6]),
        ("STRIDED_SLICE", [[0, 0, 0, 0], [1, 4, 1, 6], [1, 1, 1, 1]], [1, 4, 1, 6]),
        ("SLICE", [[0, 0, 0, 0], [-1, -1, -1, -1]], [1, 4, 1, 6]),
        ("PAD", [[[0, 0]] * 4], [1, 4, 1, 6]),
    ):
        graph = GraphWriter()
        given = graph.tensor([1, 4, 1, 6], 0.1, 0)
        operands = [given, *(graph.integers(one) for one in numbers)]
        out = graph.tensor(made, 0.1, 0)
        graph.operator(name, operands, [out])
        assert _lower(graph) == Lowered(aliases={out: given}), name


def test_values_far_beyond_int8_and_nan_are_cut(host_kernels: HostKernels) -> None:
    given = np.array([3e38, -3e38, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 12.75, -12.75], np.float32)
    graph = GraphWriter()
    numbers = graph.tensor([9], dtype="float32"), graph.tensor([9], 0.5, -128)
    graph.operator("QUANTIZE", numbers[:1], numbers[1:])
    case = graph.case("quantize", {numbers[0]: given}, numbers[1:])
    program = Program(case.graph, lowered(case.graph, Target("tflm/1", "portable"), LOWERINGS))
    assert host_kernels.run(program, case.steps)[0][0].tolist() == [127, -128, 127, -128, -128, -128, -128, -102, -128]


def _table(call: Call) -> npt.NDArray[np.int8]:
    return np.frombuffer(call.body[-256:], np.int8)


def test_litert_s_tables_do_not_depend_on_this_machine_s_libm() -> None:
    seen = hashlib.sha256()
    for name, made in (("TANH", (1 / 128, 0)), ("LOGISTIC", (1 / 256, -128))):
        for scale in (0.004, 0.0173, 0.05, 0.31):
            graph = GraphWriter()
            graph.operator(name, [graph.tensor([1], scale, -9)], [graph.tensor([1], *made)])
            table = _table(_lower(graph, "litert/1").calls[0])
            seen.update(table.tobytes())
            real = np.float32(scale) * (np.arange(256).astype(np.int8).astype(np.float64) + 9)
            exact = np.tanh(real) * 128 if name == "TANH" else 256 / (1 + np.exp(-real)) - 128
            assert np.abs(np.clip(exact, -128, 127) - table).max() <= 0.5 + 1e-4
    assert seen.hexdigest() == "306bb41f084d4a23e4c5ca35ffb2df6cc8d68f27057fe70bd924c152f4bace86"


def test_a_table_is_a_function_of_one_byte_and_may_overwrite_its_input() -> None:
    graph = GraphWriter()
    graph.operator("RELU", [graph.tensor([3], 0.1, 5)], [graph.tensor([3], 0.1, 5)])
    (call,) = _lower(graph).calls
    by_byte = _table(call)
    assert call.in_place == (0,)
    assert math.prod(by_byte.shape) == 256
    assert [int(by_byte[value & 255]) for value in (-128, -1, 4, 5, 6, 127)] == [5, 5, 5, 5, 6, 127]
