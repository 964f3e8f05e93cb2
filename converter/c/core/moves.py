# SPDX-License-Identifier: Apache-2.0
"""Copies of rectangular parts of tensors, made of as long rows as there are."""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from converter.c.core.program import Call, Operand

_LAYER = struct.Struct("<i5i5i5i2i")
_AXES = 5


class Axis(NamedTuple):
    """One axis of what is copied: how many, and the bytes between neighbours in source and destination."""

    size: int
    in_step: int
    out_step: int


class Move(NamedTuple):
    """A copy: rows of ``row_bytes`` bytes along up to five axes."""

    axes: tuple[Axis, ...]
    row_bytes: int
    in_start: int = 0
    out_start: int = 0

    @property
    def bytes(self) -> int:
        """All bytes that are copied."""
        return self.row_bytes * math.prod(axis.size for axis in self.axes)

    @property
    def straight(self) -> bool:
        """Tell whether it copies one row from the first byte to the first byte."""
        return not self.axes and self.in_start == self.out_start == 0


def steps(shape: Sequence[int], element_bytes: int) -> tuple[int, ...]:
    """Return the bytes between neighbours along each axis of a tensor."""
    return tuple(element_bytes * math.prod(shape[place + 1 :]) for place in range(len(shape)))


def collapsed(axes: Sequence[Axis], element_bytes: int, in_start: int = 0, out_start: int = 0) -> Move | None:
    """Return the same copy with neighbouring axes made one where they can be; None where over five stay."""
    merged: list[Axis] = []
    for axis in (axis for axis in axes if axis.size != 1):
        before = merged[-1] if merged else None
        if before and (before.in_step, before.out_step) == (axis.in_step * axis.size, axis.out_step * axis.size):
            merged[-1] = Axis(before.size * axis.size, axis.in_step, axis.out_step)
        else:
            merged.append(axis)
    row_bytes = element_bytes
    if merged and merged[-1].in_step == merged[-1].out_step == element_bytes:
        row_bytes *= merged.pop().size
    return Move(tuple(merged), row_bytes, in_start, out_start) if len(merged) <= _AXES else None


def move_call(move: Move, source: Operand, destination: Operand, *, note: str) -> Call:
    """Return the call that copies."""
    axes = (*[Axis(1, 0, 0)] * (_AXES - len(move.axes)), *move.axes)
    body = _LAYER.pack(
        move.row_bytes,
        *(axis.size for axis in axes),
        *(axis.in_step for axis in axes),
        *(axis.out_step for axis in axes),
        move.in_start,
        move.out_start,
    )
    return Call("move/portable/rows", (source,), (destination,), body, note=note)


def fill_call(destination: Operand, *, start: int, count: int, value: int, note: str) -> Call:
    """Return the call that writes one byte many times."""
    return Call("fill/portable/bytes", (), (destination,), struct.pack("<3i", start, count, value), note=note)


def constant_call(destination: Operand, data: bytes, *, start: int = 0, note: str) -> Call:
    """Return the call that writes constant bytes."""
    return Call("constant/portable/bytes", (), (destination,), struct.pack("<2i", start, len(data)) + data, note=note)
