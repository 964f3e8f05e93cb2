# SPDX-License-Identifier: Apache-2.0
"""The two float32 functions behind LiteRT's int8 tables, the same on every machine.

LiteRT asks the C library, and libraries differ in the last bit: the tables are those that LiteRT makes with glibc up to
2.40 on x86-64, so that a model's code does not depend on where it was generated.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]
_F = np.float32
_LN2_HIGH, _LN2_LOW, _ONE_OVER_LN2 = _F(6.9313812256e-01), _F(9.0580006145e-06), _F(1.4426950216)
#: Coefficients of fdlibm's rational approximation of expm1 in powers of x * x / 2.
_Q = tuple(_F(q) for q in (-3.3333335072e-02, 1.5873016091e-03, -7.9365076090e-05, 4.0082177293e-06, -2.0109921195e-07))
_TANH_IS_ONE = 22


def exponential(values: Singles) -> Singles:
    """Return ``exp``, rounded once; infinite where it is too large for float32.

    It was never seen to differ from the C library's in a table (23 million entries).
    """
    x = np.clip(values.astype(np.float64), -104.0, 89.0)
    power = np.rint(x * 1.4426950408889634)
    rest = (x - power * 0.693147180369123816490) - power * 1.90821492927058770002e-10
    series = np.ones_like(rest)
    for divisor in range(14, 0, -1):
        series = 1.0 + series * rest / divisor
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(series, power.astype(np.int64)).astype(np.float32)


def hyperbolic_tangent(values: Singles) -> Singles:
    """Return ``tanh`` as fdlibm computes it, bit for bit: from ``exp(2 |x|) - 1`` or ``exp(-2 |x|) - 1``."""
    size = np.minimum(np.abs(values), _F(_TANH_IS_ONE))
    large = size >= 1
    grown = _exponential_less_one(np.where(large, _F(2) * size, _F(-2) * size))
    tangent = np.where(large, _F(1) - _F(2) / (grown + _F(2)), -grown / (grown + _F(2)))
    signed: Singles = np.copysign(np.where(size >= _TANH_IS_ONE, _F(1), tangent), values)
    return signed


def _exponential_less_one(x: Singles) -> Singles:
    """Return ``exp(x) - 1`` in fdlibm's order of operations, for x in (-2, 0] or [2, 44]."""
    power, rest, lost = _reduced(x)
    half, square_half = _F(0.5) * rest, rest * (_F(0.5) * rest)
    ratio = np.full_like(x, _Q[-1])
    for coefficient in (*_Q[-2::-1], _F(1)):
        ratio = coefficient + square_half * ratio
    t = _F(3) - ratio * half
    error = square_half * ((ratio - t) / (_F(6) - rest * t))
    corrected = (rest * (error - lost) - lost) - square_half
    two_to_minus_power = np.ldexp(_F(1), -power)
    answers = [
        (power == 0, rest - (rest * error - square_half)),
        (power == -1, _F(0.5) * (rest - corrected) - _F(0.5)),
        ((power <= -2) | (power > 56), np.ldexp(_F(1) - (corrected - rest), power) - _F(1)),
        (power < 23, np.ldexp((_F(1) - two_to_minus_power) - (corrected - rest), power)),
    ]
    otherwise = np.ldexp((rest - (corrected + two_to_minus_power)) + _F(1), power)
    return np.select([where for where, _ in answers], [answer for _, answer in answers], otherwise)


def _reduced(x: Singles) -> tuple[npt.NDArray[Any], Singles, Singles]:
    """Return the power of two to take out of ``exp(x)``, what is left of x, and what that lost by rounding."""
    near, far = np.abs(x) <= _F(0.34657359), np.abs(x) >= _F(1.0397208)
    halves = np.where(x < 0, _F(-0.5), _F(0.5))
    power = np.where(near, 0, np.where(far, np.trunc(_ONE_OVER_LN2 * x + halves), np.sign(x))).astype(np.int32)
    whole = power.astype(np.float32)
    high, low = x - whole * _LN2_HIGH, whole * _LN2_LOW
    rest = high - low
    return power, rest, (high - rest) - low
