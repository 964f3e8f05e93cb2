# SPDX-License-Identifier: Apache-2.0
"""ADD, SUB and MUL: with broadcasting, fused activations and constant operands."""

import math
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from converter.c.core import kernel_choice
from converter.c.core.element_tables import INPUTS, table_call
from converter.c.core.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    Integers,
    Multiplier,
    activation_range,
    quantize_multiplier,
    scaled_twice,
    single,
    to_int8,
)
from converter.c.core.flat_sums import FlatSum, flat_sum
from converter.c.core.operands import (
    byte_count,
    constant_bytes,
    described,
    element_count,
    input_value,
    output,
    quantization,
)
from converter.c.core.program import Call, Graph, KernelSet, Lowered, Operator, Target, Value
from converter.c.core.refusals import unsupported, wrong_type
from edgefleet.contracts.manifest import Numerics

_EXACT = struct.Struct("<12i6h6i")
_FLAT = struct.Struct("<4i")
_AXES = 4
_LEFT_SHIFT = 20
_SIGNS = {"ADD": 1, "SUB": -1}
#: Which operand of an exact kernel is a constant: none, a, b.
_IN_ARENA, _A, _B = 0, 1, 2


class Binary(NamedTuple):
    """Two operands, the result, and the numbers of the reference's arithmetic."""

    operator: Operator
    a: Value
    b: Value
    made: Value
    a_factor: Multiplier
    b_factor: Multiplier
    out_factor: Multiplier
    least: int
    most: int

    def answers(self, a: Integers, b: Integers) -> npt.NDArray[np.int8]:
        """Return what the reference kernels give for int8 operands."""
        a, b = a - self.a.zero_point, b - self.b.zero_point
        if self.operator.name == "MUL":
            value: Integers = a * b
        else:
            scaled = scaled_twice(a << _LEFT_SHIFT, *self.a_factor), scaled_twice(b << _LEFT_SHIFT, *self.b_factor)
            value = scaled[0] + _SIGNS[self.operator.name] * scaled[1]
        return to_int8(scaled_twice(value, *self.out_factor) + self.made.zero_point, self.least, self.most)


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write a sum, difference or product: as a table where one operand decides, flat where that is proved, or exact.

    Raises:
        UnsupportedModelError: a type, scale, shape or activation that the kernels do not take.
    """
    binary = _read(operator, graph, target.numerics)
    table = _as_table(binary)
    if table is not None:
        return Lowered((table,))
    rows = _rows(binary)
    if _elementwise(binary) and operator.name in _SIGNS:
        flat = flat_sum(binary.answers, *_real_factors(binary))
        if flat is not None:
            return Lowered((_flat_call(binary, flat, target.kernel_set),))
    return Lowered((_exact_call(binary, rows),))


def _read(operator: Operator, graph: Graph, numerics: Numerics) -> Binary:
    a, b, made = input_value(operator, graph, 0), input_value(operator, graph, 1), output(operator, graph, "int8")
    for value in (a, b):
        if value.dtype != "int8":
            reason = f"its operand {value.name} is {value.dtype}, and its kernels take int8"
            raise wrong_type(operator, value.dtype, reason)
    if a.data is not None and b.data is not None:
        raise unsupported(operator, "both operands are constants", hint="fold it into the model")
    (a_scale, _), (b_scale, _), (scale, _) = (quantization(operator, value) for value in (a, b, made))
    least, most = activation_range(operator, made)
    if operator.name == "MUL":
        factors = (0, 0), (0, 0), _product_factor(a_scale, b_scale, scale, numerics)
    else:
        factors = _sum_factors(operator, a_scale, b_scale, scale)
    return Binary(operator, a, b, made, *factors, least, most)


def _product_factor(a: float, b: float, made: float, numerics: Numerics) -> Multiplier:
    """Return what a product is multiplied by: TFLM reckons it in double, LiteRT in float32."""
    if numerics == "tflm/1":
        return quantize_multiplier(a * b / made)
    return quantize_multiplier(single(np.float32(a) * np.float32(b) / np.float32(made)))


def _sum_factors(operator: Operator, a: float, b: float, made: float) -> tuple[Multiplier, Multiplier, Multiplier]:
    twice = 2 * max(a, b)
    out = twice / ((1 << _LEFT_SHIFT) * made)
    if out >= 1:
        raise unsupported(operator, "its output's scale is too small for its operands': the reference kernels stop")
    return quantize_multiplier(a / twice), quantize_multiplier(b / twice), quantize_multiplier(out)


def _as_table(binary: Binary) -> Call | None:
    """Return a table's call where the result is a function of one int8: a constant of one element, or an operand twice.

    Returns None where it is not.
    """
    a, b, made = binary.a, binary.b, binary.made
    given: Value
    if a.number == b.number:
        given, table = a, binary.answers(INPUTS, INPUTS)
    elif b.data is not None and element_count(b) == 1 and element_count(a) == element_count(made):
        given, table = a, binary.answers(INPUTS, np.ravel(b.data).astype(np.int64))
    elif a.data is not None and element_count(a) == 1 and element_count(b) == element_count(made):
        given, table = b, binary.answers(np.ravel(a.data).astype(np.int64), INPUTS)
    else:
        return None
    return table_call(table, given, made, note=_note(binary))


def _elementwise(binary: Binary) -> bool:
    both_computed = binary.a.data is None and binary.b.data is None
    return both_computed and element_count(binary.a) == element_count(binary.b) == element_count(binary.made)


def _real_factors(binary: Binary) -> tuple[float, float]:
    scale = binary.made.scales[0]
    return binary.a.scales[0] / scale, _SIGNS[binary.operator.name] * binary.b.scales[0] / scale


class _Rows(NamedTuple):
    """Four axes: sizes, and steps of both operands in elements."""

    sizes: tuple[int, ...]
    a_steps: tuple[int, ...]
    b_steps: tuple[int, ...]


def _rows(binary: Binary) -> _Rows:
    """Return the shape as four axes at most, neighbours made one where both operands go on evenly."""
    a, b, made = binary.a.shape, binary.b.shape, binary.made.shape
    if made != _broadcast(binary.operator, a, b):
        raise unsupported(binary.operator, f"operands of {a} and {b} make no {made}")
    rank = len(made)
    a_steps, b_steps = (_steps((1,) * (rank - len(shape)) + shape) for shape in (a, b))
    merged: list[tuple[int, int, int]] = []
    for axis in zip(made, a_steps, b_steps, strict=True):
        if axis[0] == 1:
            continue
        if merged and all(merged[-1][place] == axis[place] * axis[0] for place in (1, 2)):
            merged[-1] = (merged[-1][0] * axis[0], axis[1], axis[2])
        else:
            merged.append(axis)
    if len(merged) > _AXES:
        raise unsupported(binary.operator, f"operands of {a} and {b} broadcast along too many axes in turn")
    padded = [(1, 0, 0)] * (_AXES - len(merged)) + merged
    return _Rows(*(tuple(axis[place] for axis in padded) for place in range(3)))


def _broadcast(operator: Operator, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError as error:
        raise unsupported(operator, f"operands of {a} and {b} do not broadcast") from error


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the elements between neighbours along each axis; 0 along axes of one element, which are repeated."""
    return tuple(math.prod(shape[place + 1 :]) if size > 1 else 0 for place, size in enumerate(shape))


def _exact_call(binary: Binary, rows: _Rows) -> Call:
    a, b, made = binary.a, binary.b, binary.made
    constant = _A if a.data is not None else _B if b.data is not None else _IN_ARENA
    body = _EXACT.pack(
        *rows.sizes, *rows.a_steps, *rows.b_steps,
        constant, a.zero_point, b.zero_point, made.zero_point, binary.least, binary.most,
        *binary.a_factor, *binary.b_factor, *binary.out_factor,
    )  # fmt: skip
    if constant:
        body += constant_bytes(a if constant == _A else b)
    inputs = (b if constant == _A else a, a if constant == _B else b)  # a constant's place in the arena is not used
    return Call(
        f"{binary.operator.name.lower()}/portable/exact",
        tuple(value.number for value in inputs),
        (made.number,),
        body,
        in_place=tuple(place for place, value in enumerate(inputs) if byte_count(value) == byte_count(made)),
        note=_note(binary),
    )


def _flat_call(binary: Binary, flat: FlatSum, kernel_set: KernelSet) -> Call:
    body = _FLAT.pack(element_count(binary.made), *flat)
    numbers = (binary.a.number, binary.b.number)
    variant = kernel_choice.add_flat(kernel_set)
    return Call(variant, numbers, (binary.made.number,), body, in_place=(0, 1), note=_note(binary))


def _note(binary: Binary) -> str:
    return f"{binary.operator.name} {described(binary.a)}, {described(binary.b)} -> {described(binary.made)}" + (
        "" if (binary.least, binary.most) == (INT8_MIN, INT8_MAX) else f" in {binary.least} .. {binary.most}"
    )
