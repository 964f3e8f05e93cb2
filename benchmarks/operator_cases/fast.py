# SPDX-License-Identifier: Apache-2.0
"""Rows of cases that meet what the fast kernels are made for, and all variants of those kernels."""

from collections.abc import Callable, Mapping
from itertools import product

from benchmarks.operator_cases.case import Case
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.weighted import LayerWriter, draw_weights
from converter.c.core.pooling import along
from converter.c.core.program import KernelSet, Operator


def _pixels(draw: Draw) -> Case:
    """Draw a 1x1 convolution of whole words, which kernels read where it lies."""
    batches, height, width = draw.size(1, 2), draw.size(1, 9), draw.size(1, 9)
    in_c, out_c = 4 * draw.one_of((1, 2, 3, 4, 8, 12)), draw.size(1, 24)
    weights = draw_weights(draw, [out_c, 1, 1, in_c], int4=draw.chance(0.2))
    int4 = bool(weights.max() < 8 and weights.min() >= -8)
    layer = LayerWriter(draw, [batches, height, width, in_c], weights, 0, int4=int4, per_channel=draw.chance(0.8))
    options = {"padding": 1, "strideH": 1, "strideW": 1, "fusedActivationFunction": draw.activation()}
    return layer.case("conv2d, 1x1 in fours", "CONV_2D", [batches, height, width, out_c], options)


def _depthwise_3x3(draw: Draw) -> Case:
    """Draw a depthwise convolution as mobile networks have them, of all proportions."""
    stride, padding, in_c = draw.size(1, 2), draw.size(0, 1), 4 * draw.size(1, 4)
    picture = [draw.size(3 if padding else 1, 26) for _ in range(2)]
    options = {
        "padding": padding, "strideH": stride, "strideW": stride, "depthMultiplier": 1,
        "fusedActivationFunction": draw.one_of((0, 1, 1, 3)),
    }  # fmt: skip
    operator = Operator(0, "DEPTHWISE_CONV_2D", (), (), options)
    made = [along(operator, size, 3, stride).outputs for size in picture]
    weights = draw_weights(draw, [1, 3, 3, in_c], int4=False)
    layer = LayerWriter(draw, [1, *picture, in_c], weights, 3, int4=False, per_channel=draw.chance(0.8))
    return layer.case("depthwise, 3x3 in fours", "DEPTHWISE_CONV_2D", [1, *made, in_c], options)


#: As benchmarks.operator_cases.rows has them.
ROWS: Mapping[str, Callable[[Draw], Case]] = {
    "conv2d, 1x1 in fours": _pixels,
    "depthwise, 3x3 in fours": _depthwise_3x3,
}

_FORMS = ("relu", "any", "exact")
_OTHERS = ("average_pool/{}/exact", "max_pool/{}/exact", "mean/{}/rows", "add/{}/flat")
#: All variants of a kernel set that are not portable.
VARIANTS: Mapping[KernelSet, frozenset[str]] = {
    "portable": frozenset(),
    "dsp": frozenset(
        [f"conv2d/dsp/{form}{order}" for form, order in product(_FORMS, ("", "-int4"))]
        + [f"conv2d/dsp/{form}-halves" for form in ("relu", "any")]
        + [f"depthwise/dsp/{form}" for form in _FORMS]
        + [f"depthwise/dsp/{form}-3x3-s{stride}" for form, stride in product(("relu", "any"), (1, 2))]
        + [f"fully_connected/dsp/{form}{order}" for form, order in product(_FORMS, ("", "-halves", "-int4"))]
        + [name.format("dsp") for name in _OTHERS]
    ),
    "helium": frozenset(
        [
            f"{operator}/helium/{form}{order}"
            for operator, form, order in product(("conv2d", "fully_connected"), _FORMS, ("", "-int4"))
        ]
        + [f"depthwise/helium/{form}" for form in _FORMS]
        + [f"depthwise/helium/{form}-3x3-s{stride}" for form, stride in product(("relu", "any"), (1, 2))]
        + [name.format("helium") for name in _OTHERS]
    ),
}
