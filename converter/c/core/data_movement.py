# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements: each output byte is an input byte, a constant, or the padding.

Where a copy would change nothing, the output is the input's own memory.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from converter.c.core.moves import Axis, Move, collapsed, constant_call, fill_call, move_call, steps
from converter.c.core.operands import (
    ELEMENT_BYTES,
    axis,
    byte_count,
    computed,
    constant_bytes,
    described,
    input_value,
    integers,
    output,
    require_same_scale,
)
from converter.c.core.program import Call, Graph, Lowered, Operator, Target, Value
from converter.c.core.refusals import unsupported

_TYPES = tuple(ELEMENT_BYTES)


def lower_reshape(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Give RESHAPE, SQUEEZE and EXPAND_DIMS the memory of their input.

    Raises:
        UnsupportedModelError: a type or shape that does not fit.
    """
    given = computed(operator, graph, 0, *_TYPES)
    made = output(operator, graph, given.dtype)
    if byte_count(given) != byte_count(made):
        raise unsupported(operator, f"{given.shape} makes no {made.shape}")
    return Lowered(aliases={made.number: given.number})


def lower_transpose(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a transposition.

    Raises:
        UnsupportedModelError: a type, shape or permutation that does not fit.
    """
    given = computed(operator, graph, 0, *_TYPES)
    made = output(operator, graph, given.dtype)
    order, rank = integers(operator, graph, 1), len(given.shape)
    places = [axis(operator, number, rank) for number in order]
    if sorted(places) != list(range(rank)) or made.shape != tuple(given.shape[place] for place in places):
        raise unsupported(operator, f"the permutation {order} of {given.shape} makes no {made.shape}")
    in_steps = steps(given.shape, ELEMENT_BYTES[given.dtype])
    return _copied(operator, given, made, made.shape, [in_steps[place] for place in places], in_start=0)


def lower_strided_slice(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a slice with steps, which may be negative.

    Raises:
        UnsupportedModelError: a type, shape or mask that the reference kernels of microcontrollers do not take.
    """
    given = computed(operator, graph, 0, *_TYPES)
    made = output(operator, graph, given.dtype)
    for option in ("ellipsisMask", "newAxisMask", "offset"):
        if operator.options.get(option):
            raise unsupported(operator, f"its option {option} is set, and no kernel takes it")
    begins, ends, strides = (integers(operator, graph, place) for place in (1, 2, 3))
    if not len(begins) == len(ends) == len(strides) == len(given.shape) or 0 in strides:
        raise unsupported(operator, f"begin {begins}, end {ends} and strides {strides} do not fit {given.shape}")
    parts = [
        _part(operator, number, size, begins[number], ends[number], strides[number])
        for number, size in enumerate(given.shape)
    ]
    in_steps = steps(given.shape, ELEMENT_BYTES[given.dtype])
    start = sum(part.first * step for part, step in zip(parts, in_steps, strict=True))
    part_steps = [part.stride * step for part, step in zip(parts, in_steps, strict=True)]
    return _copied(operator, given, made, tuple(part.size for part in parts), part_steps, in_start=start)


def lower_slice(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a slice of given begin and size.

    Raises:
        UnsupportedModelError: a type or shape that does not fit.
    """
    given = computed(operator, graph, 0, *_TYPES)
    made = output(operator, graph, given.dtype)
    begins, sizes = integers(operator, graph, 1), integers(operator, graph, 2)
    counts = tuple(
        whole - begin if size == -1 else size for whole, begin, size in zip(given.shape, begins, sizes, strict=False)
    )
    within = all(
        begin >= 0 and begin + count <= whole for begin, count, whole in zip(begins, counts, given.shape, strict=False)
    )
    if not len(begins) == len(sizes) == len(given.shape) or not within:
        raise unsupported(operator, f"begin {begins} and size {sizes} do not fit {given.shape}")
    in_steps = steps(given.shape, ELEMENT_BYTES[given.dtype])
    start = sum(begin * step for begin, step in zip(begins, in_steps, strict=True))
    return _copied(operator, given, made, counts, in_steps, in_start=start)


def lower_concatenation(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write each input to its part of the output.

    Raises:
        UnsupportedModelError: a type, scale, shape or activation that does not fit.
    """
    made = output(operator, graph, *_TYPES)
    place = axis(operator, int(operator.options.get("axis", 0)), len(made.shape))
    if operator.options.get("fusedActivationFunction"):
        raise unsupported(operator, "it has a fused activation, which no kernel takes")
    values = [input_value(operator, graph, number) for number in range(len(operator.inputs))]
    _require_parts(operator, values, made, place)
    calls: list[Call] = []
    temporaries: dict[str, int] = {}
    begin = 0
    for number, value in enumerate(values):
        move = _into(operator, value, made, place, begin)
        source: int | str = value.number
        if value.data is not None:
            source = f"constant {number}"
            temporaries[source] = byte_count(value)
            calls.append(constant_call(source, constant_bytes(value), note=f"{operator.name} constant {value.name}"))
        calls.append(move_call(move, source, made.number, note=f"{operator.name} {described(value)}"))
        begin += value.shape[place]
    if len(values) == 1 and not temporaries:
        return Lowered(aliases={made.number: values[0].number})
    return Lowered(tuple(calls), temporaries)


def lower_split(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write each output of SPLIT (axis, value) or SPLIT_V (value, sizes, axis) from its part of the input.

    Raises:
        UnsupportedModelError: a type or shape that does not fit.
    """
    value_place, axis_place = (1, 0) if operator.name == "SPLIT" else (0, 2)
    given = computed(operator, graph, value_place, *_TYPES)
    place = axis(operator, integers(operator, graph, axis_place)[0], len(given.shape))
    made = [output(operator, graph, given.dtype, place=number) for number in range(len(operator.outputs))]
    _require_parts(operator, made, given, place)
    in_steps = steps(given.shape, ELEMENT_BYTES[given.dtype])
    written, begin = [], 0
    for value in made:
        written.append(_copied(operator, given, value, value.shape, in_steps, in_start=begin * in_steps[place]))
        begin += value.shape[place]
    return Lowered(
        tuple(call for part in written for call in part.calls),
        aliases={number: source for part in written for number, source in part.aliases.items()},
    )


def lower_pad(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write a picture into a larger one; PADV2 names the value around it, PAD means the zero point.

    Raises:
        UnsupportedModelError: a type, scale, shape or padding that does not fit.
    """
    given = computed(operator, graph, 0, *_TYPES)
    made = output(operator, graph, given.dtype)
    numbers = integers(operator, graph, 1)
    padding = np.reshape(numbers[: len(numbers) & ~1], (-1, 2))
    shape = tuple(int(before + size + after) for size, (before, after) in zip(given.shape, padding, strict=False))
    if len(padding) != len(given.shape) or (padding < 0).any() or made.shape != shape:
        raise unsupported(operator, f"{given.shape} with the paddings {padding.tolist()} makes no {made.shape}")
    out_steps = steps(made.shape, ELEMENT_BYTES[made.dtype])
    start = sum(int(before) * step for (before, _), step in zip(padding, out_steps, strict=True))
    in_steps = steps(given.shape, ELEMENT_BYTES[given.dtype])
    move = _collapsed(operator, given.shape, in_steps, out_steps, given, out_start=start)
    note = f"{operator.name} {described(given)} -> {described(made)}"
    if move.straight and move.bytes == byte_count(made):
        return Lowered(aliases={made.number: given.number})
    fill = fill_call(
        made.number, start=0, count=byte_count(made), value=_pad_byte(operator, graph, given, made), note=note
    )
    return Lowered((fill, move_call(move, given.number, made.number, note=note)))


def _pad_byte(operator: Operator, graph: Graph, given: Value, made: Value) -> int:
    """Return the one byte that all padding consists of."""
    if operator.name == "PAD":
        return made.zero_point if made.dtype == "int8" else 0
    value = input_value(operator, graph, 2)
    if value.data is None or value.dtype != given.dtype:
        raise unsupported(operator, f"its padding {value.name} must be a constant {given.dtype}, and is not")
    if given.dtype == "int8":
        require_same_scale(operator, value, made)
    data = constant_bytes(value)
    if len(set(data)) != 1:
        raise unsupported(operator, f"its padding {np.ravel(value.data)[0]} is no byte repeated")
    return int(struct.unpack_from("<b", data)[0])


class _Part(NamedTuple):
    first: int
    size: int
    stride: int


def _part(operator: Operator, number: int, size: int, begin: int, end: int, stride: int) -> _Part:
    """Return what a strided slice takes of one axis, as TFLite reckons begin and end under their masks."""

    def masked(option: str) -> bool:
        return bool(int(operator.options.get(option, 0)) >> number & 1)

    first, past = _bounds(size, begin, end, stride, masked("beginMask"), masked("endMask"))
    if not masked("shrinkAxisMask"):
        return _Part(first, max(0, math.ceil((past - first) / stride)), stride)
    if not 0 <= first < size:
        raise unsupported(operator, f"index {begin} is outside of an axis of {size}")
    return _Part(first, 1, 1)


def _bounds(size: int, begin: int, end: int, stride: int, begin_masked: bool, end_masked: bool) -> tuple[int, int]:
    low, high = (0, size) if stride > 0 else (-1, size - 1)

    def within(index: int) -> int:
        return min(max(index + size if index < 0 else index, low), high)

    first, past = (low, high) if stride > 0 else (high, low)
    return first if begin_masked else within(begin), past if end_masked else within(end)


def _require_parts(operator: Operator, parts: Sequence[Value], whole: Value, place: int) -> None:
    """Check that tensors are a larger one, cut along one axis."""
    for part in parts:
        if part.dtype != whole.dtype:
            raise unsupported(operator, f"{part.name} is {part.dtype}, and {whole.name} is {whole.dtype}")
        if part.dtype == "int8":
            require_same_scale(operator, part, whole)
    others = {(*part.shape[:place], *part.shape[place + 1 :]) for part in parts}
    sizes = [part.shape[place] for part in parts if len(part.shape) == len(whole.shape)]
    if others != {(*whole.shape[:place], *whole.shape[place + 1 :])} or sum(sizes) != whole.shape[place]:
        raise unsupported(operator, f"{[part.shape for part in parts]} along axis {place} are not {whole.shape}")


def _into(operator: Operator, value: Value, made: Value, place: int, begin: int) -> Move:
    """Return the copy of a whole tensor to its part of a larger one."""
    element = ELEMENT_BYTES[made.dtype]
    out_steps = steps(made.shape, element)
    in_steps = steps(value.shape, element)
    return _collapsed(operator, value.shape, in_steps, out_steps, value, out_start=begin * out_steps[place])


def _copied(
    operator: Operator, given: Value, made: Value, shape: Sequence[int], in_steps: Sequence[int], *, in_start: int
) -> Lowered:
    """Return a copy of part of a tensor to a whole one, or no copy where the part is all of it, in order."""
    element = ELEMENT_BYTES[given.dtype]
    if math.prod(shape) * element != byte_count(made):
        raise unsupported(operator, f"it takes {tuple(shape)} of {given.shape}, which makes no {made.shape}")
    move = _collapsed(operator, shape, in_steps, steps(shape, element), given, in_start=in_start)
    if move.straight and move.bytes == byte_count(given):
        return Lowered(aliases={made.number: given.number})
    note = f"{operator.name} {described(given)} -> {described(made)}"
    return Lowered((move_call(move, given.number, made.number, note=note),))


def _collapsed(
    operator: Operator,
    shape: Sequence[int],
    in_steps: Sequence[int],
    out_steps: Sequence[int],
    value: Value,
    *,
    in_start: int = 0,
    out_start: int = 0,
) -> Move:
    axes = [Axis(*numbers) for numbers in zip(shape, in_steps, out_steps, strict=True)]
    move = collapsed(axes, ELEMENT_BYTES[value.dtype], in_start, out_start)
    if move is None or move.bytes == 0:
        raise unsupported(operator, f"a tensor of {value.shape} moves along too many axes, or has no elements")
    return move
