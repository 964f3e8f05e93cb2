# SPDX-License-Identifier: Apache-2.0
"""TFLM's logistic and tanh in gemmlowp's fixed point: Q4.27 in, Q0.31 out, on NumPy arrays."""

import numpy as np

from converter.c.core.fixed_point import INT32_MAX, INT32_MIN, Integers, doubling_high, rounding_divide

_FRACTION_BITS = 27
_QUARTER = 1 << (_FRACTION_BITS - 2)
_EXP_MINUS_EIGHTH = 1895147668
_ONE_THIRD = 715827883
#: exp(-1/4), exp(-1/2), exp(-1), ... exp(-8) in Q0.31.
_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401)
_48_17THS, _MINUS_32_17THS, _ONE = 1515870810, -1010580540, 1 << 29


def logistic(x: Integers) -> Integers:
    """Return ``1 / (1 + exp(-x))``."""
    positive = _cut(_newton(_half_of_one_plus(_exponential(-np.abs(x)))) << 1)
    return np.where(x == 0, 1 << 30, np.where(x > 0, positive, INT32_MAX - positive))


def hyperbolic_tangent(x: Integers) -> Integers:
    """Return ``tanh(x)``, from ``(1 - e) / (1 + e)`` with ``e = exp(-2 |x|)``."""
    reciprocal = _newton(_half_of_one_plus(_exponential(_cut(-np.abs(x) << 1))))
    positive = _cut((reciprocal - _ONE) << 2)
    return np.sign(x) * positive


def _exponential(a: Integers) -> Integers:
    """Return ``exp(a)`` for ``a <= 0``: a polynomial on (-1/4, 0], then a factor for each binary digit of the rest."""
    small = (a & (_QUARTER - 1)) - _QUARTER
    rest, x = small - a, (small << 4) + (1 << 28)
    x2 = doubling_high(x, x)
    x3, x4 = doubling_high(x2, x), doubling_high(x2, x2)
    tail = rounding_divide(doubling_high(rounding_divide(x4, 2) + x3, _ONE_THIRD) + x2, 1)
    y = _EXP_MINUS_EIGHTH + doubling_high(_EXP_MINUS_EIGHTH, x + tail)
    for digit, factor in enumerate(_FACTORS):
        y = np.where(rest & (_QUARTER << digit), doubling_high(y, factor), y)
    return np.where(a == 0, INT32_MAX, y)


def _half_of_one_plus(x: Integers) -> Integers:
    return (x + INT32_MAX + 1) >> 1


def _newton(half: Integers) -> Integers:
    """Return ``1 / (2 half)`` in Q2.29, for halves in Q0.31."""
    y = _48_17THS + doubling_high(half, _MINUS_32_17THS)
    for _ in range(3):
        y = y + _cut(doubling_high(y, _ONE - doubling_high(half, y)) << 2)
    return y


def _cut(values: Integers) -> Integers:
    return np.clip(values, INT32_MIN, INT32_MAX)
