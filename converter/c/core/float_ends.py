# SPDX-License-Identifier: Apache-2.0
"""QUANTIZE and DEQUANTIZE: where a model takes or gives float32."""

import struct

from converter.c.core import element_tables
from converter.c.core.operands import computed, described, element_count, output, quantization
from converter.c.core.program import Call, Graph, Lowered, Operator, Target

_LAYER = struct.Struct("<2if")


def lower_quantize(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a step from float32 to int8; from int8 to int8 it is a table.

    Raises:
        UnsupportedModelError: other types, or no scale.
    """
    given, made = computed(operator, graph, 0, "int8", "float32"), output(operator, graph, "int8")
    if given.dtype == "int8":
        return element_tables.lower(operator, graph, target)
    scale, zero = quantization(operator, made)
    body = _LAYER.pack(element_count(given), zero, scale)
    note = f"QUANTIZE {described(given)} -> {described(made)}"
    return Lowered((Call("quantize/portable/float", (given.number,), (made.number,), body, in_place=(0,), note=note),))


def lower_dequantize(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a step from int8 to float32.

    Raises:
        UnsupportedModelError: other types, or no scale.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "float32")
    scale, zero = quantization(operator, given)
    body = _LAYER.pack(element_count(given), zero, scale)
    note = f"DEQUANTIZE {described(given)} -> {described(made)}"
    return Lowered((Call("dequantize/portable/float", (given.number,), (made.number,), body, note=note),))
