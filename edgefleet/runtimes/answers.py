# SPDX-License-Identifier: Apache-2.0
"""What a model's outputs say: top class, confidence, whether they are finite, and which rows of a detector count."""

from collections.abc import Callable, Sequence
from math import exp, prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import DetectionRole, TensorSpec
from edgefleet.runtimes.tensors import dequantize

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
#: Up to so many numbers are read faster as such than as an array; a row of them has a batch dimension.
_FEW, _ROW = 128, 2
#: Quantized distributions add up to 1 within half an LSB a class.
_NEAR = 0.05
_EIGHT_BITS = {"int8": range(-128, 128), "uint8": range(256)}


class Answer(NamedTuple):
    """One inference read as a classification; ``top`` is -1 where the outputs are not finite."""

    top: int
    confidence: float
    finite: bool


def read_answer(outputs: Sequence[Floats]) -> Answer:
    """Read de-quantized outputs: the class with the largest first output (the lowest on a tie).

    The confidence is that output itself where the first output is a distribution (between 0 and 1, sum near 1),
    else its softmax.
    """
    scores = outputs[0].reshape(-1)
    if not all(bool(np.isfinite(output).all()) for output in outputs):
        return Answer(-1, 0.0, finite=False)
    top = int(scores.argmax())
    return Answer(top, _confidence(scores, top, float(scores.min())), finite=True)


Reader = Callable[[Sequence[Array]], Answer]
_made = tuple.__new__


def answer_reader(specs: Sequence[TensorSpec]) -> Reader:
    """Return what reads a model's tensors as :func:`read_answer` their real values; it is quick for few classes."""
    first = specs[0]

    def slow(outputs: Sequence[Array]) -> Answer:
        return read_answer([dequantize(output, spec) for output, spec in zip(outputs, specs, strict=True)])

    row = len(first.shape) == _ROW and first.shape[0] == 1
    few = prod(first.shape) <= _FEW
    if len(specs) != 1:
        return slow
    if first.dtype == "float32" and first.scale is None:
        return _number_reader(slow, row=row) if few else _array_reader(slow)
    if few and row and first.dtype in _EIGHT_BITS and (first.scale or 0.0) > 0.0 and first.zero_point is not None:
        return _level_reader(first, first.scale or 0.0, first.zero_point)
    return slow


def _number_reader(otherwise: Reader, *, row: bool) -> Reader:
    def read(outputs: Sequence[Array]) -> Answer:
        values = outputs[0].tolist()[0] if row else outputs[0].ravel().tolist()
        total = sum(values)
        if total - total != 0.0:  # which is so where a number is not finite, for these cannot add up to infinity
            return otherwise(outputs)
        score = max(values)
        if score <= 1.0 and -_NEAR < total - 1.0 < _NEAR and min(values) >= 0.0:
            return _made(Answer, (values.index(score), score, True))
        return _made(Answer, (values.index(score), 1.0 / sum([exp(value - score) for value in values]), True))

    return read


def _array_reader(otherwise: Reader) -> Reader:
    def read(outputs: Sequence[Array]) -> Answer:
        scores = outputs[0].ravel()
        top = int(scores.argmax())  # that of a NaN, if there is one
        score, lowest = float(scores[top]), float(scores.min())
        spread = score - lowest
        if spread - spread != 0.0:  # which is so where a number is not finite
            return otherwise(outputs)
        return _made(Answer, (top, _confidence(scores, top, lowest), True))

    return read


def _level_reader(spec: TensorSpec, scale: float, zero_point: int) -> Reader:
    """Return a reader of 8-bit levels, whose real values and their distances are known beforehand."""
    levels = sorted(_EIGHT_BITS[spec.dtype], key=lambda level: level % 256)  # a list's negative places are int8's
    real = [float(value) for value in dequantize(np.array(levels), spec)]
    below = [exp(-scale * steps) for steps in range(256)]
    offset = zero_point * spec.shape[1]
    least, most = (1.0 - _NEAR) / scale + offset, (1.0 + _NEAR) / scale + offset
    within_one = [0.0 <= value <= 1.0 for value in real]
    always_within = all(within_one)

    def read(outputs: Sequence[Array]) -> Answer:
        (values,) = outputs[0].tolist()
        best = max(values)
        if least < sum(values) < most and (always_within or all(map(within_one.__getitem__, values))):
            return _made(Answer, (values.index(best), real[best], True))
        return _made(Answer, (values.index(best), 1.0 / sum([below[best - value] for value in values]), True))

    return read


def silenced(outputs: Sequence[Array], specs: Sequence[TensorSpec], roles: Sequence[DetectionRole]) -> list[Array]:
    """Return a detector's outputs with zeros in the rows beyond its count; other outputs come back as they are.

    A post-process of detections leaves whatever was in the memory there. ``roles`` are empty for what is no detector.
    """
    if not {"boxes", "count"} <= set(roles) or len(roles) != len(outputs):
        return list(outputs)
    place, rows = roles.index("count"), roles.index("boxes")
    told = float(dequantize(outputs[place], specs[place]).reshape(-1)[0])
    count = max(0, round(told)) if np.isfinite(told) else 0
    most = outputs[rows].size // 4
    return [
        _cut(output, count, most) if role in ("boxes", "classes", "scores") else output
        for output, role in zip(outputs, roles, strict=True)
    ]


def _cut(output: Array, count: int, most: int) -> Array:
    if not most or output.size % most:
        return output
    cut = output.copy()
    cut.reshape(most, -1)[count:] = 0
    return cut


def _confidence(scores: Floats, top: int, lowest: float) -> float:
    if lowest >= 0.0 and scores[top] <= 1.0 and abs(float(scores.sum()) - 1.0) < _NEAR:
        return float(scores[top])
    below = scores.astype(np.float64) - float(scores[top])  # in float64, so that processors differ in no bin of it
    return float(1.0 / np.exp(below).sum())
