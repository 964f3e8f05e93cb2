# SPDX-License-Identifier: Apache-2.0
"""What a lowering asks of an operator's values before it writes anything; each question names what it cannot take."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.c.core.program import Graph, Operator, Value
from converter.c.core.refusals import unsupported, wrong_type

#: Bytes of one element, by what kernels that only move bytes can carry.
ELEMENT_BYTES = {"int8": 1, "int32": 4, "float32": 4}
_LARGEST_INT16 = 32767
_LEAST_INT8, _LARGEST_INT8 = -128, 127


def input_value(operator: Operator, graph: Graph, place: int) -> Value:
    """Return an input, constant or computed.

    Raises:
        UnsupportedModelError: the input is left out.
    """
    if place >= len(operator.inputs) or operator.inputs[place] not in graph.values:
        raise unsupported(operator, f"its input {place} is left out")
    return graph.values[operator.inputs[place]]


def computed(operator: Operator, graph: Graph, place: int, *dtypes: str) -> Value:
    """Return an input that lies in the arena and has one of the types.

    Raises:
        UnsupportedModelError: it is a constant, left out, or of another type.
    """
    value = input_value(operator, graph, place)
    if value.data is not None:
        raise unsupported(operator, f"its input {place} ({value.name}) is a constant", hint="fold it into the model")
    return _typed(operator, value, f"its input {place}", dtypes)


def output(operator: Operator, graph: Graph, *dtypes: str, place: int = 0) -> Value:
    """Return an output that has one of the types.

    Raises:
        UnsupportedModelError: it is of another type, or there is none.
    """
    if place >= len(operator.outputs) or operator.outputs[place] not in graph.values:
        raise unsupported(operator, f"it has no output {place}")
    return _typed(operator, graph.values[operator.outputs[place]], f"its output {place}", dtypes)


def integers(operator: Operator, graph: Graph, place: int) -> tuple[int, ...]:
    """Return the whole numbers that a constant input holds: axes, paddings, sizes.

    Raises:
        UnsupportedModelError: they are only known when the model runs, or there are none.
    """
    value = input_value(operator, graph, place)
    if value.data is None or value.dtype != "int32" or not value.data.size:
        raise unsupported(operator, f"its input {place} ({value.name}) must be constant int32, and is not")
    return tuple(int(number) for number in np.ravel(value.data))


def axis(operator: Operator, number: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        UnsupportedModelError: there is no such axis.
    """
    if not -rank <= number < rank:
        raise unsupported(operator, f"axis {number} is none of a tensor of {rank}")
    return number % rank


def quantization(operator: Operator, value: Value) -> tuple[float, int]:
    """Return scale and zero point of a tensor that has one of each.

    Raises:
        UnsupportedModelError: it has none, or one a channel.
    """
    if len(value.scales) != 1 or not 0 < value.scales[0] < math.inf:
        raise unsupported(operator, f"{value.name} has {_counted(value)}, and needs exactly one")
    if not _LEAST_INT8 <= value.zero_point <= _LARGEST_INT8:
        raise unsupported(operator, f"{value.name} has the zero point {value.zero_point}, which is no int8")
    return value.scales[0], value.zero_point


def require_same_scale(operator: Operator, one: Value, other: Value) -> None:
    """Check that two tensors mean the same by their integers.

    Raises:
        UnsupportedModelError: they do not.
    """
    if (one.scales, one.zero_point) != (other.scales, other.zero_point):
        raise unsupported(
            operator, f"{one.name} and {other.name} differ in scale or zero point, which the reference kernels forbid"
        )


def require_int16(operator: Operator, *numbers: int) -> None:
    """Check that sizes fit the fields that a kernel's layer has for them.

    Raises:
        UnsupportedModelError: one does not.
    """
    largest = max(map(abs, numbers))
    if largest > _LARGEST_INT16:
        raise unsupported(operator, f"a size of {largest} is over {_LARGEST_INT16}, the largest that its kernels take")


def constant_bytes(value: Value) -> bytes:
    """Return a constant as it lies in memory, little-endian."""
    data: npt.NDArray[Any] = np.ascontiguousarray(value.data)
    return data.astype(data.dtype.newbyteorder("<")).tobytes()


def element_count(value: Value) -> int:
    """Return how many elements a tensor has."""
    return math.prod(value.shape)


def byte_count(value: Value) -> int:
    """Return the bytes of a tensor of whole bytes."""
    return element_count(value) * ELEMENT_BYTES[value.dtype]


def described(value: Value) -> str:
    """Return shape and scale in words, for a comment in the generated code."""
    shape = "x".join(map(str, value.shape)) or "scalar"
    scale = f" {value.scales[0]:.6g} ({value.zero_point})" if len(value.scales) == 1 else ""
    return f"{value.dtype}[{shape}]{scale}"


def _typed(operator: Operator, value: Value, which: str, dtypes: tuple[str, ...]) -> Value:
    if value.dtype not in dtypes:
        reason = f"{which} ({value.name}) is {value.dtype}, and its kernels take {_listed(dtypes)}"
        raise wrong_type(operator, value.dtype, reason)
    return value


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _counted(value: Value) -> str:
    return "no scale" if not value.scales else f"{len(value.scales)} scales" if len(value.scales) > 1 else "a bad scale"
