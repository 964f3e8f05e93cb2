# SPDX-License-Identifier: Apache-2.0
"""What a model's outputs say: top class, confidence, and whether they are finite."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


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


def _confidence(scores: Floats, top: int) -> float:
    # Quantized distributions add up to 1 within half an LSB a class.
    if scores.min() >= 0.0 and scores[top] <= 1.0 and abs(float(scores.sum()) - 1.0) < 0.05:
        return float(scores[top])
    return float(1.0 / np.exp(scores - scores[top]).sum())
