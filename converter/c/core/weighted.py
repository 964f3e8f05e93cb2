# SPDX-License-Identifier: Apache-2.0
"""What layers with weights have in common: weights, biases, scales, and the bounds of their sums."""

import math
from dataclasses import dataclass

import numpy as np

from converter.c.core.fixed_point import INT8_MAX, INT8_MIN, Integers, activation_range, quantize_multiplier
from converter.c.core.operands import computed, input_value, output, quantization
from converter.c.core.program import Graph, Operator, Value
from converter.c.core.refusals import unsupported
from converter.c.core.requantization import Sums

_INT4_SUM_BITS = 27
_INT32_SUM = 1 << 31


@dataclass(frozen=True)
class Weighted:
    """An operator's input, output and weights; ``weights`` has the output channels first, and all else behind."""

    operator: Operator
    given: Value
    made: Value
    weights: Integers
    bias: Integers
    sums: Sums
    int4: bool
    per_channel: bool

    def folded(self, offsets: Integers) -> Integers:
        """Return the biases with the input's zero point in them, and offsets added."""
        flat = self.weights.reshape(len(self.bias), -1)
        folded: Integers = self.bias + offsets - self.given.zero_point * flat.sum(axis=1)
        return folded


def read(operator: Operator, graph: Graph, *, channel_axis: int, rounding: int) -> Weighted:
    """Return what a layer is made of.

    Raises:
        UnsupportedModelError: a type, scale or constant that no kernel takes, or sums beyond 32 bits.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "int8")
    filters = _filters(operator, graph)
    weights = np.moveaxis(np.asarray(filters.data).astype(np.int64), channel_axis, 0)
    channels = weights.shape[0]
    bias = _bias(operator, graph, channels)
    (given_scale, given_zero), (made_scale, made_zero) = quantization(operator, given), quantization(operator, made)
    if len(filters.scales) not in (1, channels):
        raise unsupported(operator, f"its weights have {len(filters.scales)} scales for {channels} channels")
    if not all(0 <= scale < math.inf for scale in filters.scales):
        raise unsupported(operator, f"its weights {filters.name} have a bad scale")
    factors = [quantize_multiplier(given_scale * scale / made_scale) for scale in filters.scales]
    multipliers, shifts = (np.array([factor[place] for factor in factors], np.int64) for place in (0, 1))
    least, most = bounds(weights.reshape(channels, -1), bias, given_zero)
    largest_products = int(np.abs(weights).reshape(channels, -1).sum(axis=1).max()) * -INT8_MIN
    if max(abs(int(least.min())), abs(int(most.max())), largest_products) >= _INT32_SUM:
        raise unsupported(operator, "its sums may leave 32 bits")
    sums = Sums(
        least, most, np.broadcast_to(multipliers, channels), np.broadcast_to(shifts, channels),
        made_zero, *activation_range(operator, made), rounding,
    )  # fmt: skip
    small = max(abs(int(least.min())), abs(int(most.max()))) < 1 << _INT4_SUM_BITS
    int4 = filters.dtype == "int4" and small
    return Weighted(operator, given, made, weights, bias, sums, int4, len(filters.scales) > 1)


def bounds(weights: Integers, bias: Integers, zero_point: int) -> tuple[Integers, Integers]:
    """Return the least and the largest sum of each channel, whatever the input is."""
    low, high = weights * (INT8_MIN - zero_point), weights * (INT8_MAX - zero_point)
    return np.minimum(low, high).sum(axis=1) + bias, np.maximum(low, high).sum(axis=1) + bias


def _filters(operator: Operator, graph: Graph) -> Value:
    value = input_value(operator, graph, 1)
    if value.data is None or value.dtype not in ("int8", "int4"):
        raise unsupported(operator, f"its weights {value.name} must be constant int8 or int4, and are not")
    if len(value.shape) != (2 if operator.name == "FULLY_CONNECTED" else 4):
        raise unsupported(operator, f"its weights {value.name} have {len(value.shape)} axes")
    if not value.data.size:
        raise unsupported(operator, f"its weights {value.name} are empty")
    if value.zero_point != 0:
        raise unsupported(operator, f"its weights {value.name} have the zero point {value.zero_point}, and need 0")
    return value


def _bias(operator: Operator, graph: Graph, channels: int) -> Integers:
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return np.zeros(channels, np.int64)
    value = input_value(operator, graph, 2)
    if value.data is None or value.dtype != "int32" or value.data.size != channels:
        raise unsupported(operator, f"its bias {value.name} must be {channels} constants of int32, and is not")
    return np.ravel(value.data).astype(np.int64)
