# SPDX-License-Identifier: Apache-2.0
"""DEPTHWISE_CONV_2D."""

from dataclasses import replace

import numpy as np

from converter.c.core import conv2d, kernel_choice, weight_streams
from converter.c.core.dsp_streams import depthwise_3x3, fit_packed
from converter.c.core.kernel_choice import Choice
from converter.c.core.kernel_shapes import DepthwiseShape
from converter.c.core.operands import described, require_int16
from converter.c.core.pooling import along
from converter.c.core.program import Call, Graph, Lowered, Operator, Target
from converter.c.core.refusals import unsupported
from converter.c.core.requantization import ROUND_TWICE, Scaling, scaling
from converter.c.core.weighted import Weighted, read

#: Outputs side by side, as in the portable depthwise.c.
_PIXELS = 2


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a depthwise convolution.

    Raises:
        UnsupportedModelError: a type, scale, shape or option that the kernels do not take.
    """
    layer = read(operator, graph, channel_axis=3, rounding=ROUND_TWICE)
    channels, one, *_ = layer.weights.shape
    in_c = layer.given.shape[-1]
    if len(layer.given.shape) != 4 or one != 1 or not in_c or channels % in_c:
        raise unsupported(operator, f"{channels} channels of weights do not fit {layer.given.shape}")
    if in_c == 1:
        return conv2d.lower_layer(replace(layer, weights=conv2d.as_conv2d(layer.weights)), target)
    return _lower_layer(layer, target)


def _lower_layer(layer: Weighted, target: Target) -> Lowered:
    shape, scaled = _shape(layer), scaling(layer.sums)
    choice = kernel_choice.depthwise(shape, scaled.form, target.kernel_set, packed=fit_packed(scaled.words))
    if choice is None:
        choice = _portable(shape, scaled)
    call = Call(
        choice.variant,
        (layer.given.number,),
        (layer.made.number,),
        (shape.turned() if choice.turned else shape).pack() + _stream(layer, scaled, choice),
        scratch_bytes=choice.scratch_bytes,
        in_place=(0,) if choice.in_place else (),
        macs=shape.batches * shape.out_h * shape.out_w * layer.weights.size,
        note=f"{layer.operator.name} {shape.kernel_h}x{shape.kernel_w} {described(layer.given)} -> "
        f"{described(layer.made)}",
    )
    return Lowered((call,))


def _portable(shape: DepthwiseShape, scaled: Scaling) -> Choice:
    """Return the portable kernel: a layer that keeps its shape is one chunk, and may write over its input."""
    turned = shape.is_tall
    shape = shape.turned() if turned else shape
    columns = (-(-shape.out_w // _PIXELS) * _PIXELS - 1) * shape.stride_w + (shape.kernel_w - 1) * shape.dilation_w + 1
    rows = shape.out_h if shape.same_place else kernel_choice.chunk_rows(shape)
    plane_bytes = ((rows - 1) * shape.stride_h + shape.window_rows) * columns
    return Choice(f"depthwise/portable/{scaled.form}", "portable", plane_bytes, shape.same_place, turned)


def _shape(layer: Weighted) -> DepthwiseShape:
    operator, (batches, height, width, in_c) = layer.operator, layer.given.shape
    out_c, _, kernel_h, kernel_w = layer.weights.shape
    stride_h, stride_w, dilation_h, dilation_w = conv2d.steps(operator)
    rows = along(operator, height, (kernel_h - 1) * dilation_h + 1, stride_h)
    columns = along(operator, width, (kernel_w - 1) * dilation_w + 1, stride_w)
    if layer.made.shape != (batches, rows.outputs, columns.outputs, out_c):
        raise unsupported(operator, f"{layer.given.shape} makes no {layer.made.shape} with its options")
    sizes = (
        batches, height, width, in_c, rows.outputs, columns.outputs, out_c // in_c, kernel_h, kernel_w,
        stride_h, stride_w, dilation_h, dilation_w, rows.pad, columns.pad,
    )  # fmt: skip
    require_int16(operator, *sizes)
    sums = layer.sums
    return DepthwiseShape(
        *sizes, layer.given.zero_point, sums.out_zero, sums.act_min, sums.act_max, sums.rounding,
        in_c, width * in_c, out_c, columns.outputs * out_c,
    )  # fmt: skip


def _stream(layer: Weighted, scaled: Scaling, choice: Choice) -> bytes:
    bias, kernels = layer.folded(scaled.bias), layer.weights[:, 0]
    if choice.turned:
        kernels = np.ascontiguousarray(kernels.transpose(0, 2, 1))
    if choice.stream == "3x3":
        return depthwise_3x3(bias, kernels, scaled.words)
    return weight_streams.depthwise(bias, kernels.reshape(len(bias), -1), scaled.words)
