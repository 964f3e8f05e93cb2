# SPDX-License-Identifier: Apache-2.0
"""The fixed-point arithmetic of TFLite's reference kernels, on NumPy arrays of 64-bit integers.

A real factor is a pair: a 31-bit ``multiplier`` and a power of two, ``shift``: ``multiplier / 2**31 * 2**shift``.
The arithmetic is gemmlowp's; C's in ``firmware/kernels/portable/fixed_point.h`` is the same.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.c.core.program import Operator, Value
from converter.c.core.refusals import unsupported

Integers = npt.NDArray[np.int64]
Multiplier = tuple[int, int]

INT8_MIN, INT8_MAX = -128, 127
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
_VERY_MUCH = 2.0**62
#: TFLite's ActivationFunctionType, and the real range that each leaves; the others cannot be fused in integers.
_ACTIVATIONS: dict[int, tuple[float | None, float | None]] = {
    0: (None, None),  # NONE
    1: (0.0, None),  # RELU
    2: (-1.0, 1.0),  # RELU_N1_TO_1
    3: (0.0, 6.0),  # RELU6
}
_UNFUSED = {4: "TANH", 5: "SIGN_BIT"}


def single(value: float | np.floating[Any]) -> float:
    """Return a number as float32 holds it."""
    return float(np.float32(value))


def round_away(value: float) -> int:
    """Return the nearest integer; halves go away from zero, as C's ``round`` sends them. Infinity is very much."""
    value = min(max(value, -_VERY_MUCH), _VERY_MUCH)
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


def quantize_multiplier(real: float) -> Multiplier:
    """Return a factor as multiplier and shift, as TFLite's ``QuantizeMultiplier`` makes them."""
    if real == 0:
        return 0, 0
    if math.isinf(real):
        return INT32_MAX, 30
    fraction, shift = math.frexp(real)
    multiplier = round_away(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return INT32_MAX, 30
    return multiplier, shift


def doubling_high(a: npt.ArrayLike, b: npt.ArrayLike) -> Integers:
    """Return the upper half of ``2 * a * b``, halves up. The one pair that overflows does not occur."""
    products: Integers = (np.asarray(a, np.int64) * np.asarray(b, np.int64) + (1 << 30)) >> 31
    return products


def rounding_divide(values: npt.ArrayLike, exponent: npt.ArrayLike) -> Integers:
    """Return values divided by a power of two; halves go away from zero."""
    x, power = np.asarray(values, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << power) - 1
    quotients: Integers = (x >> power) + ((x & mask) > (mask >> 1) + (x < 0))
    return quotients


def wrapped(values: npt.ArrayLike) -> Integers:
    """Return what is left of values in 32 bits."""
    words: Integers = ((np.asarray(values, np.int64) - INT32_MIN) & 0xFFFFFFFF) + INT32_MIN
    return words


def scaled_twice(values: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> Integers:
    """Return values times a factor, rounded twice: TFLM everywhere, and LiteRT except for fully connected."""
    power = np.asarray(shift, np.int64)
    left = wrapped(np.asarray(values, np.int64) << np.maximum(power, 0))
    return rounding_divide(doubling_high(left, multiplier), np.maximum(-power, 0))


def scaled_once(values: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> Integers:
    """Return values times a factor, rounded once, halves up: LiteRT's fully connected."""
    total = 31 - np.asarray(shift, np.int64)
    half = np.int64(1) << (total - 1)
    products: Integers = (np.asarray(values, np.int64) * np.asarray(multiplier, np.int64) + half) >> total
    return products


def to_int8(values: npt.NDArray[Any], least: int = INT8_MIN, most: int = INT8_MAX) -> npt.NDArray[np.int8]:
    """Return values cut to a range."""
    cut: npt.NDArray[np.int8] = np.clip(values, least, most).astype(np.int8)
    return cut


def quantized(real: float, value: Value) -> int:
    """Return a real number in the scale of a tensor, divided in float32, not yet cut to its range."""
    with np.errstate(over="ignore"):  # a scale about 1e-38: infinity, as in C
        quotient = single(np.float32(real) / np.float32(value.scales[0]))
    return value.zero_point + round_away(quotient)


def activation_range(operator: Operator, output: Value) -> tuple[int, int]:
    """Return the least and the largest int8 that an operator's fused activation lets through.

    Raises:
        UnsupportedModelError: the activation cannot be fused.
    """
    code = int(operator.options.get("fusedActivationFunction", 0))
    if code not in _ACTIVATIONS:
        raise unsupported(operator, f"its fused activation {_UNFUSED.get(code, code)} has no integer form")
    least, most = _ACTIVATIONS[code]
    return (
        INT8_MIN if least is None else max(INT8_MIN, quantized(least, output)),
        INT8_MAX if most is None else min(INT8_MAX, quantized(most, output)),
    )
