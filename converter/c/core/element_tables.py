# SPDX-License-Identifier: Apache-2.0
"""Int8 functions of one int8: each is a table of its 256 answers, made by the reference kernels' own arithmetic.

TFLM (the wheel of October 2026) divides scales in double where LiteRT divides them in float32, and takes logistic and
tanh in gemmlowp's fixed point where LiteRT asks float functions.
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from converter.c.core import float_functions
from converter.c.core.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    Integers,
    quantize_multiplier,
    quantized,
    round_away,
    rounding_divide,
    scaled_twice,
    single,
    to_int8,
)
from converter.c.core.gemmlowp import hyperbolic_tangent, logistic
from converter.c.core.operands import computed, described, element_count, output, quantization
from converter.c.core.program import Call, Graph, Lowered, Operator, Target, Value
from converter.c.core.refusals import unsupported
from edgefleet.contracts.manifest import Numerics

Table = npt.NDArray[np.int8]
#: Every int8, in order.
INPUTS: Integers = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)
_LAYER = struct.Struct("<i")


class Ends(NamedTuple):
    """The operator, its input and its output, and whose arithmetic to take."""

    operator: Operator
    given: Value
    made: Value
    numerics: Numerics

    @property
    def centred(self) -> Integers:
        """Every input less its zero point."""
        return INPUTS - self.given.zero_point

    def ratio(self) -> float:
        """Return the input's scale in the output's."""
        given, made = np.float32(self.given.scales[0]), np.float32(self.made.scales[0])
        return float(given) / float(made) if self.numerics == "tflm/1" else single(given / made)


def lower(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write an activation, or a change of scale, as a table.

    Raises:
        UnsupportedModelError: a type, scale or option that the reference kernels do not take.
    """
    given, made = computed(operator, graph, 0, "int8"), output(operator, graph, "int8")
    for value in (given, made):
        quantization(operator, value)
    table = _TABLES[operator.name](Ends(operator, given, made, target.numerics))
    return Lowered((table_call(table, given, made, note=f"{operator.name} {described(given)} -> {described(made)}"),))


def table_call(table: Table, given: Value, made: Value, *, note: str) -> Call:
    """Return the call that looks each element of a tensor up in a table, whose first entry is for -128."""
    by_byte = np.roll(table, INT8_MIN)  # 0 .. 127, then -128 .. -1
    body = _LAYER.pack(element_count(given)) + by_byte.tobytes()
    return Call("table/portable/bytes", (given.number,), (made.number,), body, in_place=(0,), note=note)


def _rectifier(least: float, most: float | None) -> Callable[[Ends], Table]:
    def table(ends: Ends) -> Table:
        multiplier, shift = quantize_multiplier(ends.ratio())
        top = INT8_MAX if most is None else min(INT8_MAX, quantized(most, ends.made))
        scaled = scaled_twice(ends.centred, multiplier, shift) + ends.made.zero_point
        return to_int8(scaled, max(INT8_MIN, quantized(least, ends.made)), top)

    return table


def _relu6(ends: Ends) -> Table:
    if ends.numerics == "litert/1":
        return _rectifier(0.0, 6.0)(ends)
    six = min(INT8_MAX, quantized(6.0, ends.given))  # TFLM cuts, and takes no notice of the output's scale
    return to_int8(INPUTS, ends.given.zero_point, six)


def _litert_only(table: Callable[[Ends], Table]) -> Callable[[Ends], Table]:
    def checked(ends: Ends) -> Table:
        if ends.numerics != "litert/1":
            raise unsupported(ends.operator, "TFLM has no such operator, so that tflm/1 does not say how it rounds")
        return table(ends)

    return checked


def _leaky_relu(ends: Ends) -> Table:
    alpha, given, made = (
        np.float32(number)
        for number in (ends.operator.options.get("alpha", 0.0), ends.given.scales[0], ends.made.scales[0])
    )
    if ends.numerics == "tflm/1":
        below = float(given) * float(alpha) / float(made)
    else:
        below = single(np.float32(given * alpha) / made)
    up, down, x = quantize_multiplier(ends.ratio()), quantize_multiplier(below), ends.centred
    return to_int8(np.where(x >= 0, scaled_twice(x, *up), scaled_twice(x, *down)) + ends.made.zero_point)


def _requantize(ends: Ends) -> Table:
    multiplier, shift = quantize_multiplier(ends.given.scales[0] / ends.made.scales[0])
    return to_int8(scaled_twice(ends.centred, multiplier, shift) + ends.made.zero_point)


def _logistic(ends: Ends) -> Table:
    _require_output(ends, 1 / 256, INT8_MIN)
    if ends.numerics == "tflm/1":
        return _saturating(ends, logistic, fraction_bits=8)

    def function(real: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.float32(1) / (np.float32(1) + float_functions.exponential(-real))

    return _looked_up(ends, function)


def _tanh(ends: Ends) -> Table:
    _require_output(ends, 1 / 128, 0)
    if ends.numerics == "tflm/1":
        return _saturating(ends, hyperbolic_tangent, fraction_bits=7)
    return _looked_up(ends, float_functions.hyperbolic_tangent)


def _require_output(ends: Ends, scale: float, zero_point: int) -> None:
    if (ends.made.scales[0], ends.made.zero_point) != (scale, zero_point):
        raise unsupported(
            ends.operator,
            f"its output has the scale {ends.made.scales[0]:g} and the zero point {ends.made.zero_point}, "
            f"and the reference kernels give {scale:g} and {zero_point}",
        )


def _saturating(ends: Ends, function: Callable[[Integers], Integers], *, fraction_bits: int) -> Table:
    """TFLM's logistic and tanh: the input in Q4.27, beyond a radius the ends of the range."""
    fraction, left = math.frexp(ends.given.scales[0] * (1 << 27))
    multiplier = round_away(fraction * (1 << 31))
    radius = math.floor(math.ldexp(15 << 27, -left))
    x, zero = ends.centred, ends.made.zero_point
    inside = scaled_twice(np.where(np.abs(x) < radius, x, 0), multiplier, left)
    table = to_int8(rounding_divide(function(inside), 31 - fraction_bits) + zero)
    return np.where(x <= -radius, np.int8(INT8_MIN), np.where(x >= radius, np.int8(INT8_MAX), table))


def _looked_up(ends: Ends, function: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> Table:
    """LiteRT's tables: each input as a float32, the function, the output's scale, halves away from zero."""
    real = np.float32(ends.given.scales[0]) * ends.centred.astype(np.float32)
    scaled = function(real) * (np.float32(1) / np.float32(ends.made.scales[0]))
    rounded = np.array([round_away(float(value)) for value in scaled])
    return to_int8(rounded + ends.made.zero_point)


def _hard_swish(ends: Ends) -> Table:
    """In 16 bits: the input times 128, a sixth of it plus a half as a factor in [0, 1], and their product."""
    fine = np.float32(1 / 128) * np.float32(ends.given.scales[0])
    made, three_as_one = np.float32(ends.made.scales[0]), np.float32(3) / np.float32(1 << 15)
    if ends.numerics == "tflm/1":
        out, gate = float(fine) / float(made), float(fine) / float(three_as_one)
    else:
        out, gate = single(fine / made), single(fine / three_as_one)
    (out_multiplier, out_shift), (gate_multiplier, gate_shift) = quantize_multiplier(out), quantize_multiplier(gate)
    if out_shift > 0:
        raise unsupported(ends.operator, "its input's scale is over 128 times its output's, which no kernel takes")
    x = ends.centred << 7
    scaled = _doubling_high_16(x, _upper_half(out_multiplier))
    factor = _gate(x, _upper_half(gate_multiplier), gate_shift)
    product = factor * scaled
    high = np.sign(product) * (np.abs(product) >> 15)
    return to_int8(_rounding_divide_16(high, -out_shift) + ends.made.zero_point)


def _gate(x: Integers, multiplier: int, shift: int) -> Integers:
    """Return relu6(x + 3) / 6 in Q0.15."""
    if shift > 0:
        x = _to_int16(x << (shift - 1))
    x = _doubling_high_16(x, multiplier)
    if shift > 0:
        x = _to_int16(x << 1)
    return (_rounding_divide_16(x, max(-shift, 0)) + (1 << 15)) >> 1


def _upper_half(multiplier: int) -> int:
    return 32767 if multiplier >= INT32_MAX - (1 << 15) else (multiplier + (1 << 15)) >> 16


def _doubling_high_16(a: Integers, b: int) -> Integers:
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    halves: Integers = np.sign(nudged) * (np.abs(nudged) >> 15)
    return halves


def _rounding_divide_16(values: Integers, exponent: int) -> Integers:
    """Return 16-bit values divided by a power of two.

    By 2**16 and more the reference's mask is -1 in 16 bits, and 1 or -1 comes out where nothing should be left.
    """
    if exponent < 16:
        return rounding_divide(values, exponent)
    return np.where(values < 0, np.int64(-1), np.int64(1))


def _to_int16(values: Integers) -> Integers:
    cut: Integers = np.clip(values, -(1 << 15), (1 << 15) - 1)
    return cut


_TABLES: Mapping[str, Callable[[Ends], Table]] = {
    "RELU": _rectifier(0.0, None),
    "RELU6": _relu6,
    "RELU_N1_TO_1": _litert_only(_rectifier(-1.0, 1.0)),
    "RELU_0_TO_1": _litert_only(_rectifier(0.0, 1.0)),
    "LEAKY_RELU": _leaky_relu,
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": _logistic,
    "TANH": _tanh,
    "QUANTIZE": _requantize,
}
#: Operators that are always tables; QUANTIZE is one where its input is int8.
TABLE_OPERATORS = tuple(name for name in _TABLES if name != "QUANTIZE")
