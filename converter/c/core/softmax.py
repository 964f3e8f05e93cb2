# SPDX-License-Identifier: Apache-2.0
"""SOFTMAX over the last axis."""

import math
import struct

from converter.c.core.fixed_point import INT8_MIN, INT32_MAX, quantize_multiplier
from converter.c.core.operands import computed, described, element_count, output, quantization
from converter.c.core.program import Call, Graph, Lowered, Operator, Target
from converter.c.core.refusals import unsupported

_LAYER = struct.Struct("<5i")
_INTEGER_BITS = 5  # of the exponent's argument: beyond -31 its exponential is nothing
_LARGEST_ROW = 4095  # the sum of exponentials is kept in Q12.19


def lower(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a softmax.

    Raises:
        UnsupportedModelError: a type, scale or size that the kernel does not take.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "int8")
    scale, _ = quantization(operator, given)
    if quantization(operator, made) != (1 / 256, INT8_MIN):
        raise unsupported(operator, "its output's scale and zero point must be 1/256 and -128, and are not")
    row = given.shape[-1] if given.shape else 0
    if not 1 <= row <= _LARGEST_ROW:
        raise unsupported(operator, f"a row of {row} elements; its kernel takes 1 to {_LARGEST_ROW}")
    factor = min(float(operator.options.get("beta", 1.0)) * scale * (1 << 31 - _INTEGER_BITS), float(INT32_MAX))
    if factor <= 1:
        raise unsupported(operator, f"its input's scale {scale:g} is too small for fixed point")
    multiplier, shift = quantize_multiplier(factor)
    least = -math.floor(((1 << _INTEGER_BITS) - 1) * math.ldexp(1.0, 31 - _INTEGER_BITS - shift))
    body = _LAYER.pack(element_count(given) // row, row, multiplier, shift, least)
    note = f"SOFTMAX {described(given)} -> {described(made)}"
    return Lowered((Call("softmax/portable/exact", (given.number,), (made.number,), body, in_place=(0,), note=note),))
