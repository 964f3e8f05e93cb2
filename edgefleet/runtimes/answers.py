# SPDX-License-Identifier: Apache-2.0
"""What a model's outputs say: top class, confidence, whether they are finite, and which rows of a detector count."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import DetectionRole, TensorSpec
from edgefleet.runtimes.tensors import dequantize

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
#: Quantized distributions add up to 1 within half an LSB a class.
NEAR_ONE = 0.05


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
    return Answer(top, _confidence(scores, top), finite=True)


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


def _confidence(scores: Floats, top: int) -> float:
    score = float(scores[top])
    if float(scores.min()) >= 0.0 and score <= 1.0 and abs(float(scores.sum()) - 1.0) < NEAR_ONE:
        return score
    return softmax_of(scores, score)


def softmax_of(scores: Floats, score: float) -> float:
    """Return the softmax of the largest of finite scores, in float64, so that processors differ in no bin of it."""
    return float(1.0 / np.exp(np.subtract(scores, score, dtype=np.float64)).sum())
