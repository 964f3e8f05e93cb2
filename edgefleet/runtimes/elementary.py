# SPDX-License-Identifier: Apache-2.0
"""Functions that give the same bits on every processor: plain additions, multiplications and divisions in one order.

NumPy takes other code for logarithms, exponentials and sums on other processors, and C libraries do as well.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
_LN_2 = 0.6931471805599453


def logarithm(values: Array) -> Doubles:
    """Return natural logarithms of positive values, by ``2 atanh((m - 1) / (m + 1))`` of the mantissa ``m``."""
    mantissa, exponent = np.frexp(values)
    below = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(below, mantissa * 2.0, mantissa), exponent - below
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square, series = ratio * ratio, np.zeros_like(ratio)
    for power in range(21, 0, -2):
        series = series * square + 1.0 / power
    logarithms: Doubles = exponent * _LN_2 + 2.0 * ratio * series
    return logarithms


def total(values: Array) -> float:
    """Return the sum of a float64 array of one axis, added by halves: in an order that the length alone decides."""
    while len(values) > 1:
        half = len(values) // 2
        rest = values[2 * half :]
        values = np.concatenate([values[:half] + values[half : 2 * half], rest])
    return float(values[0]) if len(values) else 0.0
