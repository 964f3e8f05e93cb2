# SPDX-License-Identifier: Apache-2.0
"""A classifier's tensor is read in few steps: the same answer as :func:`read_answer` gives for its real values, sooner.

What may differ is decided once, from the output's description. A tensor that may hold NaN or infinity is read the long
way, and so is the output of a model that has several. Of a small output its bytes are kept and read: a step on an array
takes longer than reading them all.
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
#: What is kept of an inference: all outputs, or the bytes of the only one if that is small.
Kept: TypeAlias = bytes | Sequence[Array]
Reader = Callable[[Sequence[Array]], Reading]
BytesReader = Callable[[bytes], Reading]
#: Up to so many numbers, or levels, are read sooner one by one than as an array. For numbers that is so after a model
#: of a millisecond, which leaves nothing in the processor's caches; after one of microseconds 24 is the most.
_FEW_NUMBERS, _FEW_LEVELS = 100, 64
#: Exponentials of scores within this are float64, and their sums.
_LARGEST_SCORE = 600.0
_LEVELS = np.arange(256)
#: The ratio of two levels' exponentials is a float64 up to this scale, however far apart they are.
_LARGEST_SCALE = 2.0


def answer_reader(specs: Sequence[TensorSpec]) -> Reader:
    """Return what reads a model's tensors."""
    first = specs[0]
    count = prod(first.shape)
    if len(specs) == 1 and count:
        if _is_float(first):
            return _many_numbers(count, _long_way(specs))
        if _has_levels(first):
            return _many_levels(_Levels(first))
    return _long_way(specs)


def bytes_reader(specs: Sequence[TensorSpec]) -> BytesReader | None:
    """Return what reads the bytes of a model's only output; None where it has several, or one that is not small."""
    first = specs[0]
    count = prod(first.shape)
    if len(specs) != 1 or not count:
        return None
    if _is_float(first):
        return _few_numbers(first, count, _long_way(specs)) if count <= _FEW_NUMBERS else None
    return _few_levels(_Levels(first)) if count <= _FEW_LEVELS and _has_levels(first) else None


def as_arrays(kept: Kept, specs: Sequence[TensorSpec]) -> Sequence[Array]:
    """Return what was kept as a model's tensors."""
    if not isinstance(kept, bytes):
        return kept
    return [np.frombuffer(kept, specs[0].dtype).reshape(specs[0].shape)]


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype == "float32" and spec.scale is None


def _has_levels(spec: TensorSpec) -> bool:
    return spec.dtype in ("int8", "uint8") and 0.0 < (spec.scale or 0.0) <= _LARGEST_SCALE


def _long_way(specs: Sequence[TensorSpec]) -> Reader:
    def slow(outputs: Sequence[Array]) -> Answer:
        return read_answer([dequantize(output, spec) for output, spec in zip(outputs, specs, strict=True)])

    return slow


def _few_numbers(spec: TensorSpec, count: int, otherwise: Reader) -> BytesReader:
    unpack: Callable[[bytes], tuple[float, ...]] = struct.Struct(f"{count}f").unpack
    least, most = 1.0 - NEAR_ONE, 1.0 + NEAR_ONE

    def read(kept: bytes) -> Reading:
        values = unpack(kept)
        total = sum(values)
        if total - total != 0.0:  # which is so where a number is not finite, for these cannot add up to infinity
            return otherwise(as_arrays(kept, [spec]))
        ordered = sorted(values)
        score = ordered[-1]
        if least < total < most and score <= 1.0 and ordered[0] >= 0.0:
            return values.index(score), score, True
        if -_LARGEST_SCORE < score < _LARGEST_SCORE:
            return values.index(score), exp(score) / sum(map(exp, values)), True
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


def _few_levels(known: _Levels) -> BytesReader:
    raised, real, share = known.raised, known.real, known.rising.tolist().__getitem__
    (lowest, highest), (least, most) = known.within, known.sums

    def read(kept: bytes) -> Reading:
        levels = kept.translate(raised)
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
