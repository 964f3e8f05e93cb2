# SPDX-License-Identifier: Apache-2.0
"""Lowerings of all operators that have no weights, by the names of TFLite's schema."""

from collections.abc import Callable, Mapping

from converter.c.core import (
    arithmetic,
    data_movement,
    element_tables,
    float_ends,
    mean,
    pooling,
    resize_nearest,
    softmax,
    state_variables,
)
from converter.c.core.program import Graph, Lowered, Operator, Target

Lowering = Callable[[Operator, Graph, Target], Lowered]

WEIGHTLESS: Mapping[str, Lowering] = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), pooling.lower),
    "MEAN": mean.lower,
    **dict.fromkeys(("ADD", "SUB", "MUL"), arithmetic.lower),
    **dict.fromkeys(element_tables.TABLE_OPERATORS, element_tables.lower),
    "QUANTIZE": float_ends.lower_quantize,
    "DEQUANTIZE": float_ends.lower_dequantize,
    "SOFTMAX": softmax.lower,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest.lower,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), data_movement.lower_reshape),
    "TRANSPOSE": data_movement.lower_transpose,
    "STRIDED_SLICE": data_movement.lower_strided_slice,
    "SLICE": data_movement.lower_slice,
    "CONCATENATION": data_movement.lower_concatenation,
    **dict.fromkeys(("SPLIT", "SPLIT_V"), data_movement.lower_split),
    **dict.fromkeys(("PAD", "PADV2"), data_movement.lower_pad),
    "READ_VARIABLE": state_variables.lower_read,
    "ASSIGN_VARIABLE": state_variables.lower_assign,
    **dict.fromkeys(("VAR_HANDLE", "CALL_ONCE"), state_variables.lower_nothing),
}
