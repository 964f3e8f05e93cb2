# SPDX-License-Identifier: Apache-2.0
"""Metrics of a model's answers, and paired comparison of two models on the same samples."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class PairedInterval(NamedTuple):
    """A difference of two accuracies on the same samples (second minus first), with its confidence interval."""

    difference: float
    low: float
    high: float
    level: float
    method: str


def accuracy(predicted: Array, actual: Array) -> float:
    """Return the share of equal entries; both have shape (samples,)."""
    return float(np.mean(predicted == actual)) if len(actual) else math.nan


def recall_per_class(predicted: Array, actual: Array, classes: int) -> tuple[float, ...]:
    """Return each class's recall; 0.0 for a class without samples."""
    hits = [(predicted[actual == c] == c) for c in range(classes)]
    return tuple(float(hit.mean()) if hit.size else 0.0 for hit in hits)


def paired_accuracy_interval(first_right: Array, second_right: Array, *, level: float = 0.95) -> PairedInterval:
    """Compare two models' correctness (boolean arrays of shape (samples,)) on the same samples.

    The interval is that of Agresti and Min (Statistics in Medicine 24, 2005): Wald's for paired proportions after
    half an observation is added to each of the four cells.
    """
    gained = int(np.sum(~first_right & second_right))
    lost = int(np.sum(first_right & ~second_right))
    n = len(first_right) + 2.0
    b, c = gained + 0.5, lost + 0.5
    centre = (b - c) / n
    z = _normal_quantile(0.5 + level / 2.0)
    half = z * math.sqrt(max((b + c) - (b - c) ** 2 / n, 0.0)) / n
    difference = (gained - lost) / max(len(first_right), 1)
    return PairedInterval(difference, centre - half, centre + half, level, "Agresti-Min 2005, paired")


def mean_squared_error(predicted: Array, actual: Array) -> float:
    """Return the mean squared difference over all entries."""
    return float(np.mean((predicted.astype(np.float64) - actual.astype(np.float64)) ** 2))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)
