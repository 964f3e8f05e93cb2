# SPDX-License-Identifier: Apache-2.0
"""MEAN over any axes."""

import math
import struct
from itertools import groupby

from converter.c.core import kernel_choice
from converter.c.core.fixed_point import quantize_multiplier
from converter.c.core.operands import axis, computed, described, element_count, integers, output, quantization
from converter.c.core.program import Call, Graph, Lowered, Operator, Target
from converter.c.core.refusals import unsupported

_LAYER = struct.Struct("<5i4i")
_LARGEST_COUNT = 1 << 23  # sums of int8 less a zero point stay within 32 bits


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a mean: sums, less the zero point, times a factor that holds the division.

    Raises:
        UnsupportedModelError: a type, scale or order of axes that the kernel does not take.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "int8")
    (given_scale, zero), (made_scale, made_zero) = quantization(operator, given), quantization(operator, made)
    reduced = {axis(operator, number, len(given.shape)) for number in integers(operator, graph, 1)}
    count = math.prod(given.shape[number] for number in reduced)
    if count * element_count(made) != element_count(given) or not 1 <= count <= _LARGEST_COUNT:
        raise unsupported(operator, f"{given.shape} over the axes {sorted(reduced)} makes no {made.shape}")
    shape = _alternating(operator, given.shape, reduced)
    multiplier, shift = _divided(*quantize_multiplier(given_scale / made_scale), count)
    body = _LAYER.pack(*shape, -count * zero, made_zero, multiplier, shift)
    note = f"MEAN of {count} {described(given)} -> {described(made)}"
    variant = kernel_choice.mean(shape, target.kernel_set)
    return Lowered((Call(variant, (given.number,), (made.number,), body, note=note),))


def _divided(multiplier: int, shift: int, count: int) -> tuple[int, int]:
    """Return a factor divided by a count, with as many bits of it as fit."""
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits


def _alternating(operator: Operator, shape: tuple[int, ...], reduced: set[int]) -> tuple[int, ...]:
    """Return the sizes of kept, reduced, kept, reduced, kept axes in turn."""
    there = [(number in reduced, size) for number, size in enumerate(shape) if size > 1]
    runs = [(gone, math.prod(size for _, size in run)) for gone, run in groupby(there, key=lambda item: item[0])]
    if runs and runs[0][0]:
        runs.insert(0, (False, 1))
    if len(runs) > 5:
        raise unsupported(operator, f"the axes {sorted(reduced)} of {shape} are in more than two groups")
    return (*(size for _, size in runs), *[1] * (5 - len(runs)))
