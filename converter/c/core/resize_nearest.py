# SPDX-License-Identifier: Apache-2.0
"""RESIZE_NEAREST_NEIGHBOR: which element each output takes is worked out here."""

import math
import struct

import numpy as np
import numpy.typing as npt

from converter.c.core.fixed_point import round_away
from converter.c.core.operands import computed, described, integers, output, require_int16
from converter.c.core.program import Call, Graph, Lowered, Operator, Target
from converter.c.core.refusals import unsupported

_LAYER = struct.Struct("<6h")


def lower(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a resizing by nearest neighbours.

    Raises:
        UnsupportedModelError: a type, shape or option that the kernel does not take.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "int8")
    sizes = integers(operator, graph, 1)
    if len(given.shape) != 4 or made.shape != (given.shape[0], *sizes, given.shape[-1]):
        raise unsupported(operator, f"{given.shape} resized to {sizes} makes no {made.shape}")
    require_int16(operator, *given.shape, *sizes)
    rows, columns = (_sources(operator, given.shape[place + 1], size) for place, size in enumerate(sizes))
    body = _LAYER.pack(*given.shape, *sizes) + rows.tobytes() + columns.tobytes()
    note = f"RESIZE_NEAREST_NEIGHBOR {described(given)} -> {described(made)}"
    return Lowered((Call("resize_nearest/portable/rows", (given.number,), (made.number,), body, note=note),))


def _sources(operator: Operator, given: int, made: int) -> npt.NDArray[np.uint16]:
    """Return the input's index for each of the output's along one axis, reckoned in float32 as TFLite does."""
    aligned, half = bool(operator.options.get("alignCorners")), bool(operator.options.get("halfPixelCenters"))
    scale = np.float32(given) / np.float32(made)
    if aligned and made > 1:
        scale = np.float32(given - 1) / np.float32(made - 1)
    places = (np.arange(made, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    nearest = [round_away(float(place)) if aligned else math.floor(place) for place in places]
    return np.clip(nearest, 0, given - 1).astype("<u2")
