# SPDX-License-Identifier: Apache-2.0
"""A classifier's tensor is read in few steps: the same answer as :func:`read_answer` gives for its real values, sooner.

What may differ is decided once, from the output's description. A tensor that may hold NaN or infinity is read the long
way, and so is the output of a model that has several.
"""

import struct
from collections.abc import Callable, Sequence
from math import exp, isfinite, prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.answers import NEAR_ONE, Answer, read_answer, softmax_of
from edgefleet.runtimes.tensors import dequantize

Array = npt.NDArray[Any]
#: The fields of an :class:`Answer`; making one takes longer than some models' layers.
Reading: TypeAlias = tuple[int, float, bool]
Reader = Callable[[Sequence[Array]], Reading]
#: Up to so many numbers, or levels, are read sooner one by one than as an array.
_FEW_NUMBERS, _FEW_LEVELS = 24, 64
_LEVELS = np.arange(256)
#: The ratio of two levels' exponentials is a float64 up to this scale, however far apart they are.
_LARGEST_SCALE = 2.0


def answer_reader(specs: Sequence[TensorSpec]) -> Reader:
    """Return what reads a model's tensors."""
    first = specs[0]

    def slow(outputs: Sequence[Array]) -> Answer:
        return read_answer([dequantize(output, spec) for output, spec in zip(outputs, specs, strict=True)])

    count = prod(first.shape)
    if len(specs) != 1 or not count:
        return slow
    if first.dtype == "float32" and first.scale is None:
        return _few_numbers(count, slow) if count <= _FEW_NUMBERS else _many_numbers(count, slow)
    if first.dtype in ("int8", "uint8") and 0.0 < (first.scale or 0.0) <= _LARGEST_SCALE:
        return _few_levels(_Levels(first)) if count <= _FEW_LEVELS else _many_levels(_Levels(first))
    return slow


def _few_numbers(count: int, otherwise: Reader) -> Reader:
    unpack: Callable[[Array], tuple[float, ...]] = struct.Struct(f"{count}f").unpack_from  # type: ignore[assignment]
    least, most = 1.0 - NEAR_ONE, 1.0 + NEAR_ONE

    def read(outputs: Sequence[Array]) -> Reading:
        values = unpack(outputs[0])
        total = sum(values)
        if total - total != 0.0:  # which is so where a number is not finite, for these cannot add up to infinity
            return otherwise(outputs)
        ordered = sorted(values)
        score = ordered[-1]
        if least < total < most and score <= 1.0 and ordered[0] >= 0.0:
            return values.index(score), score, True
        return values.index(score), 1.0 / sum([exp(value - score) for value in values]), True

    return read


def _many_numbers(count: int, otherwise: Reader) -> Reader:
    ones = np.ones(count, np.float32)
    least, most = 1.0 - NEAR_ONE, 1.0 + NEAR_ONE

    def read(outputs: Sequence[Array]) -> Reading:
        scores = outputs[0].ravel()
        total = scores.dot(ones)
        if not isfinite(total):  # or finite numbers add up to more than there is: these are looked at closely
            return otherwise(outputs)
        top = int(scores.argmax())
        score = scores.item(top)
        if least < total < most and score <= 1.0 and scores.min() >= 0.0:
            return top, score, True
        return top, softmax_of(scores, score), True

    return read


class _Levels:
    """What is known beforehand of 8-bit levels, counted from the lowest: their real values, and exponentials of these.

    ``rising`` is the exponential of each level's real value as a share of the highest one's.
    """

    def __init__(self, spec: TensorSpec) -> None:
        lowest = -128 if spec.dtype == "int8" else 0
        real = dequantize((_LEVELS + lowest).astype(spec.dtype), spec)
        self.real = [float(value) for value in real]
        self.rising = np.exp((_LEVELS - 255) * (spec.scale or 0.0))
        within = [level for level, value in enumerate(self.real) if 0.0 <= value <= 1.0] or [256]
        #: The levels that may be a probability's, and the sums of levels that may be a distribution's.
        self.within = within[0], within[-1]
        offset = prod(spec.shape) * ((spec.zero_point or 0) - lowest)
        self.sums = tuple(total / (spec.scale or 1.0) + offset for total in (1.0 - NEAR_ONE, 1.0 + NEAR_ONE))
        #: Turns the tensor's bytes into such levels.
        self.raised = bytes((level + lowest) % 256 for level in range(256))


def _few_levels(known: _Levels) -> Reader:
    raised, real, share = known.raised, known.real, known.rising.tolist().__getitem__
    (lowest, highest), (least, most) = known.within, known.sums

    def read(outputs: Sequence[Array]) -> Reading:
        levels = outputs[0].tobytes().translate(raised)
        ordered = sorted(levels)
        best = ordered[-1]
        if least < sum(ordered) < most and best <= highest and ordered[0] >= lowest:
            return levels.index(best), real[best], True
        return levels.index(best), share(best) / sum(map(share, ordered)), True

    return read


def _many_levels(known: _Levels) -> Reader:
    real, rising = known.real, known.rising
    raised = np.frombuffer(known.raised, np.uint8)
    (lowest, highest), (least, most) = known.within, known.sums

    def read(outputs: Sequence[Array]) -> Reading:
        output = outputs[0].ravel()
        top = int(output.argmax())
        counts = np.bincount(raised[output.view(np.uint8)], minlength=256)
        best = int(raised[output.view(np.uint8)[top]])
        if least < counts.dot(_LEVELS) < most and best <= highest and not counts[:lowest].any():
            return top, real[best], True
        return top, float(rising[best] / counts.dot(rising)), True

    return read
