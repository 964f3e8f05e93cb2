# SPDX-License-Identifier: Apache-2.0
"""What no kernel can do is refused in one sentence that names the operator, its number and the reason."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.operator_cases.case import GraphWriter
from benchmarks.operator_cases.host_kernels import lowered
from converter.c.core.lowering import LOWERINGS
from converter.c.core.program import Target
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import Numerics

_Draws = Callable[[GraphWriter], None]


def _unary(
    name: str, given: tuple[float, int] = (0.1, 3), made: tuple[float, int] = (0.1, 3), **options: object
) -> _Draws:
    def draw(graph: GraphWriter) -> None:
        graph.operator(name, [graph.tensor([1, 4, 4, 2], *given)], [graph.tensor([1, 4, 4, 2], *made)], **options)

    return draw


def _pool(shape: list[int], made: list[int], **options: int) -> _Draws:
    def draw(graph: GraphWriter) -> None:
        sizes = {"filterHeight": 2, "filterWidth": 2, "strideH": 1, "strideW": 1, "padding": 1}
        graph.operator(
            "MAX_POOL_2D", [graph.tensor(shape, 0.1, 3)], [graph.tensor(made, 0.1, 3)], **{**sizes, **options}
        )

    return draw


def _binary(
    name: str, a: list[int], b: list[int], made: list[int], scale: float = 0.1, dtype: str = "int8", **options: int
) -> _Draws:
    def draw(graph: GraphWriter) -> None:
        operands = [graph.tensor(a, 0.1, 3), graph.tensor(b, 0.2, 1, dtype=dtype)]
        graph.operator(name, operands, [graph.tensor(made, scale, 0)], **options)

    return draw


def _both_constant(graph: GraphWriter) -> None:
    operands = [graph.tensor([2], 0.1, 0, data=np.zeros(2, np.int8)) for _ in range(2)]
    graph.operator("ADD", operands, [graph.tensor([2], 0.1, 0)])


def _with_integers(name: str, shape: list[int], numbers: list[object], made: list[int], **options: int) -> _Draws:
    def draw(graph: GraphWriter) -> None:
        operands = [graph.tensor(shape, 0.1, 3), *(graph.integers(one) for one in numbers)]
        graph.operator(name, operands, [graph.tensor(made, 0.1, 3)], **options)

    return draw


def _computed_axis(graph: GraphWriter) -> None:
    axis = graph.tensor([1], dtype="int32")
    graph.operator("MEAN", [graph.tensor([2, 3], 0.1, 0), axis], [graph.tensor([2], 0.1, 0)])


def _no_scale(graph: GraphWriter) -> None:
    graph.operator("SOFTMAX", [graph.tensor([1, 4])], [graph.tensor([1, 4], 1 / 256, -128)])


def _concatenation(**options: int) -> _Draws:
    def draw(graph: GraphWriter) -> None:
        operands = [graph.tensor([1, 2], 0.1, 3), graph.tensor([1, 2], 0.2, 3)]
        graph.operator("CONCATENATION", operands, [graph.tensor([1, 4], 0.1, 3)], **options)

    return draw


def _padv2(graph: GraphWriter) -> None:
    padding, value = graph.integers([[1, 1]]), graph.tensor([1], dtype="int32", data=np.array([258], np.int32))
    operands = [graph.tensor([2], dtype="int32"), padding, value]
    graph.operator("PADV2", operands, [graph.tensor([4], dtype="int32")])


def _float_activation(graph: GraphWriter) -> None:
    graph.operator("RELU", [graph.tensor([4], dtype="float32")], [graph.tensor([4], dtype="float32")])


def _nameless(graph: GraphWriter) -> None:
    graph.operator("READ_VARIABLE", [graph.tensor([], dtype="resource")], [graph.tensor([4], 0.1, 0)])


def _layer(
    name: str,
    shape: list[int],
    weights: list[int],
    made: list[int],
    *,
    dtype: str = "int8",
    zero: int = 0,
    constant: bool = True,
    bias: int = 0,
    scales: int = 1,
    **options: int,
) -> _Draws:
    def draw(graph: GraphWriter) -> None:
        data = np.ones(weights, np.int8) if constant else None
        filters = graph.tensor(weights, [0.01] * scales, zero, dtype=dtype, data=data)
        operands = [graph.tensor(shape, 0.1, 3), filters]
        if bias:
            operands.append(graph.tensor([2], 0.001, dtype="int32", data=np.full(2, bias, np.int32)))
        graph.operator(name, operands, [graph.tensor(made, 0.1, 3)], padding=1, strideH=1, strideW=1, **options)

    return draw


_CASES: list[tuple[Numerics, _Draws, str]] = [
    ("tflm/1", _unary("RELU_N1_TO_1"),
     "RELU_N1_TO_1 (number 0) cannot be written as C: TFLM has no such operator, so that tflm/1 does not say how it "
     "rounds"),
    ("tflm/1", _unary("LOGISTIC"),
     "LOGISTIC (number 0) cannot be written as C: its output has the scale 0.1 and the zero point 3, and the reference "
     "kernels give 0.00390625 and -128"),
    ("litert/1", _unary("TANH", made=(1 / 128, 1)),
     "TANH (number 0) cannot be written as C: its output has the scale 0.0078125 and the zero point 1, and the "
     "reference kernels give 0.0078125 and 0"),
    ("tflm/1", _unary("HARD_SWISH", made=(0.0001, 0)),
     "HARD_SWISH (number 0) cannot be written as C: its input's scale is over 128 times its output's, which no kernel "
     "takes"),
    ("tflm/1", _float_activation,
     "RELU (number 0) cannot be written as C: its input 0 (t0) is float32, and its kernels take int8"),
    ("tflm/1", _unary("SOFTMAX"),
     "SOFTMAX (number 0) cannot be written as C: its output's scale and zero point must be 1/256 and -128, and are "
     "not"),
    ("tflm/1", _unary("SOFTMAX", given=(1e-9, 0), made=(1 / 256, -128), beta=1.0),
     "SOFTMAX (number 0) cannot be written as C: its input's scale 1e-09 is too small for fixed point"),
    ("tflm/1", _no_scale, "SOFTMAX (number 0) cannot be written as C: t0 has no scale, and needs exactly one"),
    ("tflm/1", _pool([1, 4, 4, 2], [1, 3, 3, 2], fusedActivationFunction=4),
     "MAX_POOL_2D (number 0) cannot be written as C: its fused activation TANH has no integer form"),
    ("tflm/1", _pool([4, 4, 2], [3, 3, 2]),
     "MAX_POOL_2D (number 0) cannot be written as C: its input has 3 axes, and its kernels take 4"),
    ("tflm/1", _pool([1, 4, 4, 2], [1, 2, 2, 2]),
     "MAX_POOL_2D (number 0) cannot be written as C: its output has the shape (1, 2, 2, 2), and its options make "
     "(1, 3, 3, 2)"),
    ("tflm/1", _pool([1, 4, 4, 40000], [1, 3, 3, 40000]),
     "MAX_POOL_2D (number 0) cannot be written as C: a size of 40000 is over 32767, the largest that its kernels take"),
    ("tflm/1", _binary("ADD", [2, 3], [2], [2, 3]),
     "ADD (number 0) cannot be written as C: operands of (2, 3) and (2,) do not broadcast"),
    ("tflm/1", _binary("ADD", [2, 3], [3], [3]),
     "ADD (number 0) cannot be written as C: operands of (2, 3) and (3,) make no (3,)"),
    ("tflm/1", _binary("MUL", [2, 1, 2, 1, 2, 1], [1, 2, 1, 2, 1, 2], [2] * 6),
     "MUL (number 0) cannot be written as C: operands of (2, 1, 2, 1, 2, 1) and (1, 2, 1, 2, 1, 2) broadcast along too "
     "many axes in turn"),
    ("tflm/1", _binary("SUB", [2, 3], [3], [2, 3], dtype="int32"),
     "SUB (number 0) cannot be written as C: its operand t1 is int32, and its kernels take int8"),
    ("tflm/1", _binary("ADD", [3], [3], [3], scale=1e-7),
     "ADD (number 0) cannot be written as C: its output's scale is too small for its operands': the reference kernels "
     "stop"),
    ("tflm/1", _both_constant, "ADD (number 0) cannot be written as C: both operands are constants"),
    ("tflm/1", _computed_axis,
     "MEAN (number 0) cannot be written as C: its input 1 (t0) must be constant int32, and is not"),
    ("tflm/1", _with_integers("MEAN", [2, 3], [[2]], [2]),
     "MEAN (number 0) cannot be written as C: axis 2 is none of a tensor of 2"),
    ("tflm/1", _with_integers("MEAN", [2, 2, 2, 2, 2, 2, 2], [[0, 2, 4]], [2, 2, 2, 2]),
     "MEAN (number 0) cannot be written as C: the axes [0, 2, 4] of (2, 2, 2, 2, 2, 2, 2) are in more than two groups"),
    ("tflm/1", _with_integers("TRANSPOSE", [2, 3], [[0, 0]], [2, 3]),
     "TRANSPOSE (number 0) cannot be written as C: the permutation (0, 0) of (2, 3) makes no (2, 3)"),
    ("tflm/1", _with_integers("STRIDED_SLICE", [4], [[0], [4], [1]], [1, 4], newAxisMask=1),
     "STRIDED_SLICE (number 0) cannot be written as C: its option newAxisMask is set, and no kernel takes it"),
    ("tflm/1", _with_integers("STRIDED_SLICE", [4], [[5], [6], [1]], [], shrinkAxisMask=1),
     "STRIDED_SLICE (number 0) cannot be written as C: index 5 is outside of an axis of 4"),
    ("tflm/1", _with_integers("SLICE", [4], [[2], [3]], [3]),
     "SLICE (number 0) cannot be written as C: begin (2,) and size (3,) do not fit (4,)"),
    ("tflm/1", _with_integers("PAD", [4], [[[-1, 1]]], [4]),
     "PAD (number 0) cannot be written as C: (4,) with the paddings [[-1, 1]] makes no (4,)"),
    ("tflm/1", _with_integers("RESHAPE", [4], [[5]], [5]),
     "RESHAPE (number 0) cannot be written as C: (4,) makes no (5,)"),
    ("tflm/1", _with_integers("RESIZE_NEAREST_NEIGHBOR", [1, 4, 4], [[8, 8]], [1, 8, 8]),
     "RESIZE_NEAREST_NEIGHBOR (number 0) cannot be written as C: (1, 4, 4) resized to (8, 8) makes no (1, 8, 8)"),
    ("tflm/1", _padv2, "PADV2 (number 0) cannot be written as C: its padding 258 is no byte repeated"),
    ("tflm/1", _concatenation(axis=1),
     "CONCATENATION (number 0) cannot be written as C: t1 and t2 differ in scale or zero point, which the reference "
     "kernels forbid"),
    ("tflm/1", _concatenation(axis=1, fusedActivationFunction=1),
     "CONCATENATION (number 0) cannot be written as C: it has a fused activation, which no kernel takes"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 4], [2, 3, 3, 2], [1, 2, 2, 2]),
     "CONV_2D (number 0) cannot be written as C: weights of (2, 3, 3, 2) do not fit (1, 4, 4, 4): groups have no "
     "kernel"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 3, 3, 2], [1, 2, 2, 2], zero=1),
     "CONV_2D (number 0) cannot be written as C: its weights t0 have the zero point 1, and need 0"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 3, 3, 2], [1, 2, 2, 2], constant=False),
     "CONV_2D (number 0) cannot be written as C: its weights t0 must be constant int8 or int4, and are not"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 3, 3, 2], [1, 2, 2, 2], bias=(1 << 31) - 1),
     "CONV_2D (number 0) cannot be written as C: its sums may leave 32 bits"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 3, 3, 2], [1, 4, 4, 2]),
     "CONV_2D (number 0) cannot be written as C: (1, 4, 4, 2) makes no (1, 4, 4, 2) with its options"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 3, 3, 2], [1, 2, 2, 2], dilationHFactor=0),
     "CONV_2D (number 0) cannot be written as C: strides and dilations of (1, 1, 0, 1) make no sense"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 0, 3, 2], [1, 2, 2, 2]),
     "CONV_2D (number 0) cannot be written as C: its weights t0 are empty"),
    ("tflm/1", _layer("CONV_2D", [1, 4, 4, 2], [2, 3, 3, 2], [1, 2, 2, 2], scales=3),
     "CONV_2D (number 0) cannot be written as C: its weights have 3 scales for 2 channels"),
    ("tflm/1", _layer("DEPTHWISE_CONV_2D", [1, 4, 4, 3], [1, 3, 3, 4], [1, 2, 2, 4]),
     "DEPTHWISE_CONV_2D (number 0) cannot be written as C: 4 channels of weights do not fit (1, 4, 4, 3)"),
    ("tflm/1", _layer("FULLY_CONNECTED", [1, 5], [2, 4], [1, 2]),
     "FULLY_CONNECTED (number 0) cannot be written as C: weights of (2, 4) make no (1, 2) of (1, 5)"),
    ("tflm/1", _layer("FULLY_CONNECTED", [1, 4], [2, 4], [1, 2], weightsFormat=1),
     "FULLY_CONNECTED (number 0) cannot be written as C: its weights are shuffled, which no kernel takes"),
    ("tflm/1", _nameless, "READ_VARIABLE (number 0) cannot be written as C: its variable t0 has no VAR_HANDLE"),
]  # fmt: skip


@pytest.mark.parametrize(("numerics", "draw", "message"), _CASES, ids=[message[:60] for _, _, message in _CASES])
def test_it_is_refused_by_name(numerics: Numerics, draw: _Draws, message: str) -> None:
    graph = GraphWriter()
    draw(graph)
    with pytest.raises(UnsupportedModelError) as refusal:
        lowered(graph.case("refused", {}, []).graph, Target(numerics, "portable"), LOWERINGS)
    assert refusal.value.message == f"the operator {message}"
    assert refusal.value.hint


def test_a_float_model_is_to_be_quantized_first() -> None:
    graph = GraphWriter()
    graph.operator("TANH", [graph.tensor([1, 4], dtype="float32")], [graph.tensor([1, 4], dtype="float32")])
    with pytest.raises(UnsupportedModelError) as refusal:
        lowered(graph.case("refused", {}, []).graph, Target("tflm/1", "portable"), LOWERINGS)
    assert refusal.value.message == (
        "the operator TANH (number 0) cannot be written as C: its input 0 (t0) is float32, and its kernels take int8"
    )
    assert refusal.value.hint == (
        "quantize the model to int8 first: 'edgefleet convert' does, with samples for --calibration"
    )
