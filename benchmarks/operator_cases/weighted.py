# SPDX-License-Identifier: Apache-2.0
"""Random cases of the operators that multiply weights: convolutions and fully connected, in int8 and int4."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.operator_cases.case import Case, GraphWriter
from benchmarks.operator_cases.drawing import Draw
from converter.c.core.pooling import along
from converter.c.core.program import Graph, Operator

Array = npt.NDArray[Any]


def draw_weights(draw: Draw, shape: Sequence[int], *, int4: bool) -> Array:
    most = 7 if int4 else 127
    least = -most - (1 if int4 or draw.chance(0.2) else 0)
    if draw.chance(0.1):
        return draw.random.choice(np.array([least, most], np.int8), tuple(shape))
    return draw.random.integers(least, most + 1, tuple(shape)).astype(np.int8)


def _scales(draw: Draw, channels: int, *, per_channel: bool) -> Array:
    """Return the weights' scales: one in eight layers has channels of nearly nothing, as training leaves them."""
    scales = np.exp(draw.random.uniform(-8, -2, channels if per_channel else 1))
    if per_channel and draw.chance(0.125):
        scales *= np.where(draw.random.random(channels) < 0.4, 2.0 ** -draw.random.uniform(4, 24, channels), 1)
    return scales.astype(np.float32)


class LayerWriter:
    """Input, weights, bias and output of one layer, in the order of its operator's operands."""

    def __init__(
        self, draw: Draw, shape: Sequence[int], weights: Array, channel_axis: int, *, int4: bool, per_channel: bool
    ) -> None:
        self.graph, self._draw = GraphWriter(), draw
        channels = weights.shape[channel_axis]
        given_scale, scales = draw.scale(), _scales(draw, channels, per_channel=per_channel)
        self.data = draw.bytes(shape)
        taps = weights.size // channels
        self.given = self.graph.tensor(shape, given_scale, draw.zero_point())
        filters = self.graph.tensor(
            weights.shape, scales, dtype="int4" if int4 else "int8", data=weights, channel_axis=channel_axis
        )
        self.operands = [self.given, filters]
        if draw.chance(0.9):
            spread = int(40 * np.sqrt(taps) * (7 if int4 else 127)) + 1
            bias = draw.random.integers(-spread, spread, channels).astype(np.int32)
            bias_scales = np.float32(given_scale) * scales
            self.operands.append(self.graph.tensor([channels], bias_scales, dtype="int32", data=bias))
        typical = given_scale * float(np.median(scales)) * np.sqrt(taps) * (4 if int4 else 70) * 70
        self._made_scale = float(np.float32(typical / 2 ** draw.real(3.0, 8.0)))

    def case(self, row: str, name: str, made: Sequence[int], options: Mapping[str, Any]) -> Case:
        scale = self._draw.scale_at_a_bound() if self._draw.chance(0.05) else self._made_scale
        zero = -128 if self._draw.chance(0.4) else self._draw.zero_point()
        out = self.graph.tensor(made, scale, zero)
        self.graph.operator(name, self.operands, [out], **options)
        return self.graph.case(row, {self.given: self.data}, [out])


def _sliding(draw: Draw) -> tuple[list[int], list[int], dict[str, int], list[int]]:
    """Return picture, kernel, options and output rows and columns."""
    kernel = [1, 1] if draw.chance(0.25) else draw.sizes(2, 1, 5)
    strides = [1, 1] if draw.chance() else draw.sizes(2, 1, 3)
    dilations = draw.sizes(2, 1, 3) if strides == [1, 1] and draw.chance(0.3) else [1, 1]
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    padding = draw.size(0, 1)
    picture = [draw.size(extent if padding else 1, max(12, extent + 3)) for extent in extents]
    options = {
        "padding": padding, "strideH": strides[0], "strideW": strides[1],
        "dilationHFactor": dilations[0], "dilationWFactor": dilations[1],
        "fusedActivationFunction": draw.activation(),
    }  # fmt: skip
    operator = Operator(0, "CONV_2D", (), (), options)
    made = [along(operator, size, extent, step).outputs
            for size, extent, step in zip(picture, extents, strides, strict=True)]  # fmt: skip
    return picture, kernel, options, made


def _conv2d(row: str, *, int4: bool = False) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        picture, kernel, options, made = _sliding(draw)
        batches, in_c, out_c = draw.one_of((1, 1, 2)), draw.size(1, 16), draw.size(1, 16)
        weights = draw_weights(draw, [out_c, *kernel, in_c], int4=int4)
        shape = [batches, *picture, in_c]
        layer = LayerWriter(draw, shape, weights, 0, int4=int4, per_channel=draw.chance(0.8))
        return layer.case(row, "CONV_2D", [batches, *made, out_c], options)

    return case


def _depthwise(row: str, *, int4: bool = False) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        picture, kernel, options, made = _sliding(draw)
        if draw.chance(0.3):
            options["strideW"] = options["strideH"]  # the kernels of most models
        batches, in_c, multiplier = draw.one_of((1, 1, 2)), draw.size(1, 12), draw.one_of((1, 1, 2, 3))
        extent = (kernel[1] - 1) * options["dilationWFactor"] + 1
        operator = Operator(0, "DEPTHWISE_CONV_2D", (), (), options)
        made[1] = along(operator, picture[1], extent, options["strideW"]).outputs
        weights = draw_weights(draw, [1, *kernel, in_c * multiplier], int4=int4)
        layer = LayerWriter(draw, [batches, *picture, in_c], weights, 3, int4=int4, per_channel=draw.chance(0.8))
        options["depthMultiplier"] = multiplier
        return layer.case(row, "DEPTHWISE_CONV_2D", [batches, *made, in_c * multiplier], options)

    return case


def _fully_connected(row: str, *, int4: bool, per_channel: bool) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        rows, inputs, outputs = draw.size(1, 40), draw.size(1, 90), draw.size(2, 40)
        weights = draw_weights(draw, [outputs, inputs], int4=int4)
        leading = [rows] if draw.chance(0.7) else [draw.size(1, 4), rows]
        layer = LayerWriter(draw, [*leading, inputs], weights, 0, int4=int4, per_channel=per_channel)
        keep = len(leading) > 1 and draw.chance()
        options = {"fusedActivationFunction": draw.activation(), "keepNumDims": keep}
        shape = leading if keep else [math.prod(leading)]
        made = layer.case(row, "FULLY_CONNECTED", [*shape, outputs], options)
        if int4 and per_channel:  # the wheel takes no such layer, but the same numbers in int8
            return replace(made, tflm_graph=_in_int8(made.graph))
        return made

    return case


def _in_int8(graph: Graph) -> Graph:
    values = {
        number: replace(value, dtype="int8") if value.dtype == "int4" else value
        for number, value in graph.values.items()
    }
    return replace(graph, values=values)


#: The campaign's rows, and what draws a case of each.
ROWS: Mapping[str, Callable[[Draw], Case]] = {
    "conv2d": _conv2d("conv2d"),
    "conv2d, int4": _conv2d("conv2d, int4", int4=True),
    "depthwise": _depthwise("depthwise"),
    "depthwise, int4": _depthwise("depthwise, int4", int4=True),
    "fully connected": _fully_connected("fully connected", int4=False, per_channel=False),
    "fully connected, per channel": _fully_connected("fully connected, per channel", int4=False, per_channel=True),
    "fully connected, int4": _fully_connected("fully connected, int4", int4=True, per_channel=False),
    "fully connected, int4 per channel": _fully_connected(
        "fully connected, int4 per channel", int4=True, per_channel=True
    ),
}
