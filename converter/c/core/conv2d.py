# SPDX-License-Identifier: Apache-2.0
"""CONV_2D, and DEPTHWISE_CONV_2D of one input channel, which is the same."""

import numpy as np

from converter.c.core import helium_streams, kernel_choice, weight_streams
from converter.c.core.dsp_streams import HALVES_BITS, conv2d_halves, fit_halves, fit_packed
from converter.c.core.fixed_point import Integers
from converter.c.core.kernel_choice import Choice
from converter.c.core.kernel_shapes import Conv2dShape
from converter.c.core.operands import described, require_int16
from converter.c.core.pooling import along
from converter.c.core.program import Call, Graph, Lowered, Operator, Target
from converter.c.core.refusals import unsupported
from converter.c.core.requantization import ROUND_TWICE, Scaling, scaling, shifted_further
from converter.c.core.weighted import Weighted, read


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a convolution.

    Raises:
        UnsupportedModelError: a type, scale, shape or option that the kernels do not take.
    """
    layer = read(operator, graph, channel_axis=0, rounding=ROUND_TWICE)
    if len(layer.given.shape) != 4 or layer.weights.shape[3] != layer.given.shape[3]:
        raise unsupported(
            operator, f"weights of {layer.weights.shape} do not fit {layer.given.shape}: groups have no kernel"
        )
    return lower_layer(layer, target)


def lower_layer(layer: Weighted, target: Target) -> Lowered:
    """Write a convolution whose weights are out_c x kernel_h x kernel_w x in_c."""
    shape = _shape(layer)
    scaled, rows = scaling(layer.sums), weight_streams.in_rows(layer.weights.reshape(shape.out_c, -1), shape.rows)
    halves = _as_halves(layer, rows, scaled) if target.kernel_set == "dsp" else None
    choice = kernel_choice.conv2d(
        shape, scaled.form, target.kernel_set, int4=layer.int4, halves=halves is not None
    ) or _portable(shape, scaled, layer.int4)
    if choice.stream == "halves" and halves is not None:
        scaled = halves
    call = Call(
        choice.variant,
        (layer.given.number,),
        (layer.made.number,),
        shape.pack() + _stream(layer, rows, scaled, choice),
        scratch_bytes=choice.scratch_bytes,
        in_place=(0,) if choice.in_place else (),
        macs=shape.batches * shape.out_h * shape.out_w * shape.out_c * shape.k,
        note=f"{layer.operator.name} {shape.kernel_h}x{shape.kernel_w} {described(layer.given)} -> "
        f"{described(layer.made)}",
    )
    return Lowered((call,))


def _shape(layer: Weighted) -> Conv2dShape:
    operator, (batches, height, width, in_c) = layer.operator, layer.given.shape
    out_c, kernel_h, kernel_w, _ = layer.weights.shape
    stride_h, stride_w, dilation_h, dilation_w = steps(operator)
    rows = along(operator, height, (kernel_h - 1) * dilation_h + 1, stride_h)
    columns = along(operator, width, (kernel_w - 1) * dilation_w + 1, stride_w)
    if layer.made.shape != (batches, rows.outputs, columns.outputs, out_c):
        raise unsupported(operator, f"{layer.given.shape} makes no {layer.made.shape} with its options")
    sizes = (
        batches, height, width, in_c, rows.outputs, columns.outputs, out_c, kernel_h, kernel_w,
        stride_h, stride_w, dilation_h, dilation_w, rows.pad, columns.pad,
    )  # fmt: skip
    require_int16(operator, *sizes)
    sums = layer.sums
    return Conv2dShape(*sizes, layer.given.zero_point, sums.out_zero, sums.act_min, sums.act_max, sums.rounding)


def steps(operator: Operator) -> tuple[int, int, int, int]:
    """Return strides and dilations, vertical first.

    Raises:
        UnsupportedModelError: one of them is no step.
    """
    names = ("strideH", "strideW", "dilationHFactor", "dilationWFactor")
    numbers = tuple(int(operator.options.get(name, 1)) for name in names)
    if min(numbers) < 1:
        raise unsupported(operator, f"strides and dilations of {numbers} make no sense")
    return numbers  # type: ignore[return-value]


def _as_halves(layer: Weighted, rows: Integers, scaled: Scaling) -> Scaling | None:
    """Return the scaling of the stream "halves", which takes nearly all layers."""
    shifted = shifted_further(layer.sums, scaled, HALVES_BITS)
    if shifted is None:
        return None
    live = shifted.words[:, -3] != 0  # the others are constant
    least, most = ((bound + shifted.bias)[live] for bound in (layer.sums.least, layer.sums.most))
    fits = not live.any() or fit_halves(rows, least, most)
    return shifted if fits and fit_packed(shifted.words) else None


def _stream(layer: Weighted, rows: Integers, scaled: Scaling, choice: Choice) -> bytes:
    bias = layer.folded(scaled.bias)
    if choice.stream == "halves":
        return conv2d_halves(bias, rows, scaled.words)
    if choice.stream == "helium":
        return helium_streams.grouped(bias, layer.weights.reshape(len(bias), -1), scaled.words, int4=layer.int4)
    return weight_streams.conv2d_pairs(bias, rows, scaled.words, int4=layer.int4)


def _portable(shape: Conv2dShape, scaled: Scaling, int4: bool) -> Choice:
    variant = f"conv2d/portable/{scaled.form}{'-int4' if int4 else ''}"
    in_place = shape.by_pixel and shape.in_c % 4 == 0 and shape.in_c >= shape.out_c
    return Choice(variant, "portable", 2 * shape.k_quads * 4 + -(-shape.row_bytes // 4) * 4, in_place)


def as_conv2d(weights: Integers) -> Integers:
    """Return a depthwise kernel's weights, channels x 1 x height x width, as those of a convolution of one channel."""
    return np.moveaxis(weights, 1, 3)
