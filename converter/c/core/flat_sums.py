# SPDX-License-Identifier: Apache-2.0
"""Sums of two int8 tensors in one line of integer arithmetic, proved equal to the reference's for every pair.

The reference scales both operands, rounds each, adds, and rounds again. The flat form is
``ssat8((c + (a1 * a >> 8) + (a2 * b >> 8)) >> 20)``: each pair (a, b) with its known answer says between which two
numbers ``c`` must lie, and where these 65,536 intervals meet in one number the form is exact.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from converter.c.core.element_tables import INPUTS
from converter.c.core.fixed_point import INT8_MAX, INT8_MIN, INT32_MAX, INT32_MIN, Integers

FRACTION_BITS = 20
_FACTOR_BITS = FRACTION_BITS + 8
#: Steps away from the nearest factors: the reference's own rounding moves the slopes a little.
_NUDGES = (0, -4, 4, -8, 8, -16, 16)


class FlatSum(NamedTuple):
    """The numbers of the flat form."""

    a1: int
    a2: int
    c: int


def flat_sum(
    answers: Callable[[Integers, Integers], npt.NDArray[np.int8]], a_factor: float, b_factor: float
) -> FlatSum | None:
    """Return the flat form of a sum with these real factors; None where no constant makes it exact.

    ``answers`` gives the reference's results for arrays of int8 operands.
    """
    nearest = round(a_factor * (1 << _FACTOR_BITS)), round(b_factor * (1 << _FACTOR_BITS))
    if max(map(abs, nearest)) + max(_NUDGES) > INT32_MAX:
        return None
    needed = _Needed(answers(INPUTS[:, None], INPUTS[None, :]))
    for a1, a2 in _around(*nearest):
        c = needed.constant(a1 * INPUTS >> 8, a2 * INPUTS >> 8)
        if c is not None:
            return FlatSum(a1, a2, c)
    return None


def _around(a1: int, a2: int) -> Iterator[tuple[int, int]]:
    for nudge in _NUDGES:
        yield a1 + nudge, a2
        if nudge:
            yield a1, a2 + nudge


class _Needed:
    """What each pair's answer asks of the sum before its shift."""

    def __init__(self, wanted: npt.NDArray[np.int8]) -> None:
        answer = wanted.astype(np.int64)
        self._not_least, self._not_most = answer > INT8_MIN, answer < INT8_MAX
        self._least, self._most = answer << FRACTION_BITS, ((answer + 1) << FRACTION_BITS) - 1

    def constant(self, a: Integers, b: Integers) -> int | None:
        """Return the constant in the middle of those that are right for every pair; None where there is none.

        ``a`` and ``b`` are the two addends for every int8. No intermediate sum may leave 32 bits.
        """
        sums = a[:, None] + b[None, :]
        low = int(np.max(self._least - sums, where=self._not_least, initial=INT32_MIN))
        high = int(np.min(self._most - sums, where=self._not_most, initial=INT32_MAX))
        middle = (low + high) // 2
        return middle if low <= high and _fits(middle + a) and _fits(middle + sums) else None


def _fits(sums: Integers) -> bool:
    return bool(sums.min() >= INT32_MIN and sums.max() <= INT32_MAX)
