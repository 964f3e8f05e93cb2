# SPDX-License-Identifier: Apache-2.0
"""AVERAGE_POOL_2D and MAX_POOL_2D."""

import struct
from typing import NamedTuple

from converter.c.core import kernel_choice
from converter.c.core.fixed_point import activation_range
from converter.c.core.operands import computed, described, output, require_int16, require_same_scale
from converter.c.core.program import Call, Graph, Lowered, Operator, Target, Value
from converter.c.core.refusals import unsupported

_LAYER = struct.Struct("<14h")
_PADDINGS = {0: "SAME", 1: "VALID"}


class Along(NamedTuple):
    """One axis of a pool: how many outputs, and by how much the first window begins before the picture."""

    outputs: int
    pad: int


def along(operator: Operator, size: int, window: int, stride: int) -> Along:
    """Return the outputs along one axis, as TFLite counts them.

    Raises:
        UnsupportedModelError: the window or its steps are none, or the padding is unknown.
    """
    padding = _PADDINGS.get(int(operator.options.get("padding", 0)))
    if padding is None or min(window, stride, size) < 1:
        raise unsupported(operator, f"a window of {window} in steps of {stride} over {size} elements makes no sense")
    if padding == "VALID":
        return Along((size - window) // stride + 1, 0)
    outputs = -(-size // stride)
    return Along(outputs, max(0, (outputs - 1) * stride + window - size) // 2)


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a pool.

    Raises:
        UnsupportedModelError: a type, scale, shape or option that the kernels do not take.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "int8")
    require_same_scale(operator, given, made)
    if len(given.shape) != 4:
        raise unsupported(operator, f"its input has {len(given.shape)} axes, and its kernels take 4")
    batches, height, width, channels = given.shape
    names = ("filterHeight", "filterWidth", "strideH", "strideW")
    window_h, window_w, stride_h, stride_w = (int(operator.options.get(name, 0)) for name in names)
    window, strides = (window_h, window_w), (stride_h, stride_w)
    rows, columns = along(operator, height, window[0], strides[0]), along(operator, width, window[1], strides[1])
    _require_shape(operator, made, (batches, rows.outputs, columns.outputs, channels))
    numbers = (*given.shape, rows.outputs, columns.outputs, *window, *strides, rows.pad, columns.pad)
    require_int16(operator, *numbers)
    body = _LAYER.pack(*numbers[:3], channels, *numbers[4:], *activation_range(operator, made))
    note = f"{operator.name} {window[0]}x{window[1]} {described(given)} -> {described(made)}"
    if operator.name == "AVERAGE_POOL_2D":
        variant = kernel_choice.average_pool(window[0], window[1], target.kernel_set)
    else:
        variant = kernel_choice.max_pool(target.kernel_set)
    return Lowered((Call(variant, (given.number,), (made.number,), body, note=note),))


def _require_shape(operator: Operator, made: Value, shape: tuple[int, ...]) -> None:
    if made.shape != shape or min(shape) < 1:
        raise unsupported(operator, f"its output has the shape {made.shape}, and its options make {shape}")
