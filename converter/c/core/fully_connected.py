# SPDX-License-Identifier: Apache-2.0
"""FULLY_CONNECTED: the one layer where LiteRT rounds once and TFLM twice."""

import math

import numpy as np

from converter.c.core import helium_streams, kernel_choice, weight_streams
from converter.c.core.dsp_streams import fit_halves, fully_connected_halves
from converter.c.core.fixed_point import Integers
from converter.c.core.kernel_choice import Choice
from converter.c.core.kernel_shapes import FullyConnectedShape
from converter.c.core.operands import described
from converter.c.core.program import Call, Graph, Lowered, Operator, Target
from converter.c.core.refusals import unsupported
from converter.c.core.requantization import ROUND_ONCE, ROUND_TWICE, Scaling, scaling
from converter.c.core.weighted import Weighted, read


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a fully connected layer.

    Raises:
        UnsupportedModelError: a type, scale, shape or option that the kernels do not take.
    """
    if operator.options.get("weightsFormat"):
        raise unsupported(operator, "its weights are shuffled, which no kernel takes")
    rounding = ROUND_TWICE if target.numerics == "tflm/1" else ROUND_ONCE
    layer = read(operator, graph, channel_axis=0, rounding=rounding)
    outputs, inputs = layer.weights.shape
    rows, rest = divmod(math.prod(layer.given.shape), inputs)
    if rest or math.prod(layer.made.shape) != rows * outputs:
        raise unsupported(operator, f"weights of {(outputs, inputs)} make no {layer.made.shape} of {layer.given.shape}")
    scaled = scaling(layer.sums if layer.per_channel else layer.sums.together())
    shape = _shape(layer, scaled, rows)
    halves = fit_halves(layer.weights, layer.sums.least + scaled.bias, layer.sums.most + scaled.bias)
    choice = kernel_choice.fully_connected(shape, scaled.form, target.kernel_set, int4=layer.int4, halves=halves)
    if choice is None:
        suffix = "-int4" if layer.int4 else ""
        choice = Choice(f"fully_connected/portable/{scaled.form}{suffix}", "portable", 0)
    call = Call(
        choice.variant,
        (layer.given.number,),
        (layer.made.number,),
        shape.pack() + _stream(layer, scaled, choice),
        scratch_bytes=choice.scratch_bytes,
        macs=rows * layer.weights.size,
        note=f"FULLY_CONNECTED {described(layer.given)} -> {described(layer.made)}",
    )
    return Lowered((call,))


def _shape(layer: Weighted, scaled: Scaling, rows: int) -> FullyConnectedShape:
    outputs, inputs = layer.weights.shape
    sums = layer.sums
    return FullyConnectedShape(
        rows, inputs, outputs, layer.per_channel,
        sums.out_zero, sums.act_min, sums.act_max, sums.rounding, _scale_of_all(layer, scaled),
    )  # fmt: skip


def _scale_of_all(layer: Weighted, scaled: Scaling) -> tuple[int, int, int, int]:
    """Return k, m, c, l of all outputs; of an exact layer multiplier and shift stand for m and l."""
    if layer.per_channel:
        return (0, 0, 0, 0)
    words = [int(word) for word in scaled.words[0]]
    if scaled.form == "exact":
        return (0, words[0], 0, words[1])
    k, m, c, left = words if scaled.form == "any" else [0, *words]
    return (k, m, c, left)


def _stream(layer: Weighted, scaled: Scaling, choice: Choice) -> bytes:
    offsets: Integers = np.broadcast_to(scaled.bias, layer.bias.shape)
    bias, scales = layer.folded(offsets), scaled.words if layer.per_channel else None
    if choice.stream == "halves":
        padded = np.pad(layer.weights, ((0, 0), (0, -layer.weights.shape[1] % 8)))
        return fully_connected_halves(bias, padded, scales)
    if choice.stream == "helium":
        each = np.broadcast_to(scaled.words, (len(bias), scaled.words.shape[1]))
        return helium_streams.grouped(bias, layer.weights, each, int4=layer.int4)
    return weight_streams.fully_connected_fours(bias, layer.weights, scales, int4=layer.int4)
