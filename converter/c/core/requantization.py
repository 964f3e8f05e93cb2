# SPDX-License-Identifier: Apache-2.0
"""From a 32-bit sum to int8 in one shift, proved equal to the reference's roundings for every sum that can occur.

The reference multiplies, rounds, shifts and rounds again. As ``floor((floor(a / b) + c) / d)`` is
``floor((a + c * b) / (b * d))``, both roundings are one addition before one shift, and the form "relu" is
``ssat8((((sum << l) * m >> 32) + c) >> 15)``. Ties of negative numbers go the other way, which takes one more step: in
the form "any", ``+ k`` where the sum is negative. It is not needed where negative numbers are cut anyway. Both
functions rise with the sum, so that they are equal if they step at the same sums: 255 comparisons prove a channel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from converter.c.core.fixed_point import INT8_MAX, INT8_MIN, Integers, scaled_once, scaled_twice
from converter.c.core.kernel_choice import Form

ROUND_ONCE, ROUND_TWICE = 1, 2
_FRACTION_BITS = 15
_LEAST_LEFT, _MOST_LEFT = 2, 30
#: A left shift that every stream takes, for channels that are multiplied by 0.
_ANY_LEFT = 8
_ANSWERS = np.arange(INT8_MIN + 1, INT8_MAX + 1, dtype=np.int64)[None, :]
_OFFSETS_TRIED, _OFFSETS_PROVED = 1 << 15, 64
_LOW_WORD = (1 << 32) - 1


@dataclass(frozen=True)
class Sums:
    """What channels add up to, and how the reference makes int8 of it: one multiplier and shift a channel."""

    least: Integers
    most: Integers
    multipliers: Integers
    shifts: Integers
    out_zero: int
    act_min: int
    act_max: int
    rounding: int

    def answers(self, sums: Integers) -> Integers:
        """Return the reference's answers to sums, channels first."""
        scaled = scaled_once if self.rounding == ROUND_ONCE else scaled_twice
        rounded = scaled(sums, self.multipliers[:, None], self.shifts[:, None])
        cut: Integers = np.clip(rounded + self.out_zero, self.act_min, self.act_max)
        return cut

    @property
    def rise(self) -> npt.NDArray[np.bool_]:
        """Whether each channel's answers rise with its sum: a left shift before the multiplication may wrap instead."""
        largest = np.maximum(np.abs(self.least), np.abs(self.most))
        rising: npt.NDArray[np.bool_] = largest < (np.int64(1) << (31 - np.maximum(self.shifts, 0)))
        return rising

    def channel(self, number: int) -> "Sums":
        """Return one channel of them."""
        one = slice(number, number + 1)
        return replace(
            self, least=self.least[one], most=self.most[one], multipliers=self.multipliers[one], shifts=self.shifts[one]
        )

    def together(self) -> "Sums":
        """Return one channel that can be all of them; they must share multiplier and shift."""
        return replace(self.channel(0), least=self.least.min(keepdims=True), most=self.most.max(keepdims=True))


@dataclass(frozen=True)
class Scaling:
    """How a layer is scaled: the form, its words of each channel, and what is to be added to each bias."""

    form: Form
    words: Integers
    bias: Integers


def scaling(sums: Sums) -> Scaling:
    """Return the fastest form that is right for every channel."""
    steps = _Steps(sums)
    none: Integers = np.zeros(len(sums.least), np.int64)
    for form in ("relu", "any"):
        words = _words(sums, with_k=form == "any")
        wrong = np.flatnonzero(~steps.agree(words, none))
        offsets = none.copy()
        if all(_repaired(sums, steps, words, offsets, int(channel), _LEAST_LEFT) for channel in wrong):
            return Scaling(form, words if form == "any" else words[:, 1:], offsets)
    return Scaling("exact", np.stack([sums.multipliers, sums.shifts], axis=1), none)


def shifted_further(sums: Sums, scaled: Scaling, left: int) -> Scaling | None:
    """Return the same form with left shifts of at least ``left``, which takes bits from multipliers; None if wrong."""
    if scaled.form == "exact":
        return None
    more = np.maximum(left - scaled.words[:, -1], 0)
    if not more.any():
        return scaled
    words = np.pad(scaled.words, ((0, 0), (4 - scaled.words.shape[1], 0)))
    words[:, 1] >>= more
    words[:, 3] += more
    steps, bias = _Steps(sums), scaled.bias.copy()
    wrong = np.flatnonzero(~steps.agree(words, bias))
    if not all(_repaired(sums, steps, words, bias, int(channel), left) for channel in wrong):
        return None
    return replace(scaled, words=words if scaled.form == "any" else words[:, 1:], bias=bias)


def _words(sums: Sums, *, with_k: bool) -> Integers:
    """Return k, m, c, l of every channel, to be proved."""
    right = -sums.shifts
    left = np.clip(_FRACTION_BITS + 1 - right, 0, 62)
    half = np.int64(1) << (_FRACTION_BITS - 1)
    if sums.rounding == ROUND_ONCE:
        k, ties = np.zeros_like(left), np.full_like(left, half)
    else:
        first = np.int64(1) << np.clip(left - 2, 0, _FRACTION_BITS - 1)
        ties = np.where(right > 0, half + first, half)
        k = np.where((right > 0) & with_k, -(np.int64(1) << np.clip(left - 1, 0, 30)), 0)
    words = np.stack([k, sums.multipliers, ties + (sums.out_zero << _FRACTION_BITS), left], axis=1)
    always = sums.answers(sums.least[:, None])[:, 0]
    constant = (always == sums.answers(sums.most[:, None])[:, 0]) & sums.rise
    words[constant] = np.array([0, 0, 0, _ANY_LEFT])
    words[constant, 2] = always[constant] << _FRACTION_BITS
    return words


class _Steps:
    """The sums at which each answer of the reference begins, and whether another function begins there too."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        low, high = np.broadcast_arrays(sums.least[:, None] - 1, (sums.most[:, None] + 1) + 0 * _ANSWERS)
        low, high = low.copy(), high.copy()
        while ((high - low) > 1).any():
            middle = (low + high) >> 1
            reached = sums.answers(np.clip(middle, sums.least[:, None], sums.most[:, None])) >= _ANSWERS
            open_ended = high - low > 1
            high = np.where(open_ended & reached, middle, high)
            low = np.where(open_ended & ~reached, middle, low)
        self._first = high

    def agree(self, words: Integers, offsets: Integers) -> npt.NDArray[np.bool_]:
        """Tell of each channel whether its words, with an offset on the sum, answer as the reference does."""
        return self._agree(self._first, self._sums.least, self._sums.most, words, offsets)

    def agree_one(self, channel: int, words: Integers, offset: int) -> bool:
        """Tell the same of one channel."""
        one = slice(channel, channel + 1)
        least, most = self._sums.least[one], self._sums.most[one]
        return bool(self._agree(self._first[one], least, most, words[None], np.array([offset]))[0])

    @staticmethod
    def _agree(
        first: Integers, least: Integers, most: Integers, words: Integers, offsets: Integers
    ) -> npt.NDArray[np.bool_]:
        left = words[:, 3]
        bound = np.maximum(np.abs(least + offsets), np.abs(most + offsets)).astype(np.float64)
        constant = words[:, 1] == 0
        fits = constant | (
            (left >= _LEAST_LEFT) & (left <= _MOST_LEFT) & (bound * 2.0 ** np.minimum(left, 62) < 1 << 31)
        )
        shown = np.where(fits[:, None], words, 0)
        reached = first <= most[:, None]
        at = _one_shift(np.minimum(first, most[:, None]) + offsets[:, None], shown) >= _ANSWERS
        before = _one_shift(np.maximum(first - 1, least[:, None]) + offsets[:, None], shown) < _ANSWERS
        begins_there = (at | ~reached) & (before | (first == least[:, None]))
        agreed: npt.NDArray[np.bool_] = fits & begins_there.all(axis=1)
        return agreed


def _one_shift(sums: Integers, words: Integers) -> Integers:
    k, m, c, left = (words[:, place, None] for place in range(4))
    # a channel that is multiplied by 0 may wrap on the way: nothing of it is left
    high = np.where(m == 0, 0, (sums << np.where(m == 0, 0, left)) * m >> 32)
    cut: Integers = np.clip((high + c + np.where(sums < 0, k, 0)) >> _FRACTION_BITS, INT8_MIN, INT8_MAX)
    return cut


def _repaired(sums: Sums, steps: _Steps, words: Integers, offsets: Integers, channel: int, left: int) -> bool:
    """Find other words and an offset on the sum for a channel, in place; tell whether it has."""
    one = sums.channel(channel)
    natural = _FRACTION_BITS + 1 + int(one.shifts[0])
    if natural >= left and int(max(-one.least[0], one.most[0])) << natural < 1 << 31:
        return False  # what an offset helps against is not what is wrong
    for found, offset in _with_offsets(one, left):
        if steps.agree_one(channel, found, offset):
            words[channel], offsets[channel] = found, offset
            return True
    return False


def _with_offsets(one: Sums, least_left: int) -> Iterator[tuple[Integers, int]]:
    """Yield words and an offset on the sum, the most promising ones first.

    An offset does three things: where the factor asks for less of a left shift than kernels have, and so for fewer bits
    of the multiplier, it makes the shortened product right amid the answers; with it a whole number ``c`` can
    be as good as the fraction that the roundings ask for; and sums that lie on one side of 0 find room in 32 bits.
    """
    right, least, most = int(-one.shifts[0]), int(one.least[0]), int(one.most[0])
    natural = _FRACTION_BITS + 1 - right
    left = max(natural, least_left)
    multiplier = int(one.multipliers[0])
    step = multiplier >> (left - natural) << left  # of what is shifted by 32, for a sum of 1
    if left > _MOST_LEFT or step == 0:
        return
    # the middle of what is not cut off: there an answer is about 0, and c small enough to share a word
    middle = min(max((-one.out_zero << max(31 + right, 0)) // multiplier, least), most)
    exact = Fraction(middle * multiplier, 1 << max(31 + right, 0)) + Fraction(1, 2) + one.out_zero
    if one.rounding == ROUND_TWICE and right > 0:
        exact += Fraction(1, 1 << (right + 1))
    wanted = math.floor(exact * (1 << (_FRACTION_BITS + 32))) - middle * step
    tried = _offsets(least, most, left)
    rest = (np.uint64(wanted & _LOW_WORD) - tried.astype(np.uint64) * np.uint64(step)) & np.uint64(_LOW_WORD)
    for place in np.argsort(np.minimum(rest, (1 << 32) - rest), kind="stable")[:_OFFSETS_PROVED]:
        offset = int(tried[place])
        constant = (wanted - offset * step + (1 << 31)) >> 32
        yield np.array([0, step >> left, constant, left], np.int64), offset


def _offsets(least: int, most: int, left: int) -> Integers:
    """Return the offsets that leave room for all sums, those next to 0 if there are many."""
    room = ((1 << 31) - 1) >> left
    first, last = -room - least, room - most
    nearest = min(max(0, first), last)
    found: Integers = np.arange(max(first, nearest - _OFFSETS_TRIED), min(last, nearest + _OFFSETS_TRIED) + 1)
    return found
