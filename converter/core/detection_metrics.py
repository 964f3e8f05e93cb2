# SPDX-License-Identifier: Apache-2.0
"""How good detections are, and how far two models' detections lie apart.

``outputs`` are rows as :mod:`converter.core.detection` makes them, shape (samples, rows, 6); ``labels`` have the shape
(samples, boxes, 5): y0, x0, y1, x1, class, with class -1 in rows without a box.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.detection import CLASS_COLUMN, COLUMNS, SCORE_COLUMN
from edgefleet.contracts.errors import InputError
from edgefleet.runtimes.metrics import Matches, match_detections, overlap, pairwise_overlap, weighted_precision

Array = npt.NDArray[Any]
#: From this score on a detection is taken for one, where something has to be said or not: confusion, float's own boxes.
SURE = 0.5
_LEAST_OVERLAP = 0.5
#: How many detections of a sample are compared, the most certain ones.
_MOST_COMPARED = 100


def mean_average_precision(outputs: Array, labels: Array) -> float:
    """Return mAP@0.5: the mean average precision over the labelled classes; NaN where no box is labelled."""
    found = [value for value in precision_per_class(outputs, labels) if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan


def precision_per_class(outputs: Array, labels: Array) -> tuple[float, ...]:
    """Return each class's average precision at an overlap of 0.5, NaN for a class without labelled boxes.

    Raises:
        InputError: the outputs are no detections.
    """
    once = np.ones((1, len(labels)), np.int64)
    return tuple(float(weighted_precision(matches, once)[0]) for matches in _matches(outputs, labels))


def resampled_precision(outputs: Array, labels: Array, picks: Array) -> Array:
    """Return mAP@0.5 of samples drawn anew; ``picks`` are their numbers, shape (draws, samples)."""
    weights = np.stack([np.bincount(pick, minlength=len(labels)) for pick in picks])
    each = np.stack([weighted_precision(matches, weights) for matches in _matches(outputs, labels)])
    counted = ~np.isnan(each)
    classes = np.where(counted.any(axis=0), counted.sum(axis=0), math.nan)
    return np.asarray(np.where(counted, each, 0.0).sum(axis=0) / classes)


def own_boxes(outputs: Array) -> Array:
    """Return a model's sure detections as labels, for samples that have none."""
    labels = outputs[:, :, : CLASS_COLUMN + 1].copy()
    labels[outputs[:, :, SCORE_COLUMN] < SURE, CLASS_COLUMN] = -1
    return labels


def most_certain_class(outputs: Array) -> Array:
    """Return the class of each sample's row with the highest score, -1 where no row says anything."""
    best = outputs[:, :, SCORE_COLUMN].argmax(axis=1)
    return np.asarray(outputs[np.arange(len(outputs)), best, CLASS_COLUMN])


def ordered_scores(outputs: Array) -> Array:
    """Return each sample's scores, the highest first."""
    return -np.sort(-outputs[:, :, SCORE_COLUMN], axis=1)


def detection_distance(first: Array, second: Array) -> float:
    """Return how much of two models' detections the other does not find, weighted by score: 0 (nothing) to 1.

    A detection is found again as far as one of the same class overlaps it and has a score near to its own. The order of
    the rows says nothing.
    """
    pairs = [_apart(one, other) for one, other in zip(first, second, strict=True)]
    missed, weight = (math.fsum(pair[place] for pair in pairs) for place in (0, 1))
    return missed / weight if weight > 0.0 else 0.0


def taken_for(outputs: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Match sure detections with labelled boxes whatever their classes, in each image by falling score.

    Returns the class of each labelled box, the class that it was taken for (-1: it was missed), and the classes of
    detections where no box is.
    """
    actual, predicted, invented = [], [], []
    for rows, boxes in zip(outputs, labels, strict=True):
        sure = rows[(rows[:, SCORE_COLUMN] >= SURE) & (rows[:, CLASS_COLUMN] >= 0)]
        wanted = boxes[boxes[:, CLASS_COLUMN] >= 0]
        taken = np.full(len(wanted), -1)
        for row in sure[np.argsort(-sure[:, SCORE_COLUMN], kind="stable")]:
            overlaps = np.where(taken < 0, overlap(row[:4], wanted), -1.0)
            best = int(overlaps.argmax()) if len(wanted) else 0
            if len(wanted) and overlaps[best] >= _LEAST_OVERLAP:
                taken[best] = int(row[CLASS_COLUMN])
            else:
                invented.append(int(row[CLASS_COLUMN]))
        actual.append(wanted[:, CLASS_COLUMN].astype(np.int64))
        predicted.append(taken)
    return np.concatenate(actual), np.concatenate(predicted), np.array(invented, np.int64)


def _matches(outputs: Array, labels: Array) -> list[Matches]:
    """Return each class's matches, of the classes up to the highest that is labelled."""
    if outputs.ndim != 3 or outputs.shape[2] != COLUMNS:
        raise InputError(
            f"the model's answers have the shape {list(outputs.shape[1:])}, and detections have [rows, 6]",
            hint="name what each output is (boxes, classes, scores, count), or a metric of your own",
        )
    classes = int(labels[:, :, CLASS_COLUMN].max(initial=-1)) + 1
    return [
        match_detections(
            [rows[rows[:, CLASS_COLUMN] == number][:, [0, 1, 2, 3, SCORE_COLUMN]] for rows in outputs],
            [boxes[boxes[:, CLASS_COLUMN] == number][:, :CLASS_COLUMN] for boxes in labels],
            least_overlap=_LEAST_OVERLAP,
        )
        for number in range(classes)
    ]


def _apart(first: Array, second: Array) -> tuple[float, float]:
    """Return the score that is not found again in the other, and all score, of one sample's detections."""
    one, other = _compared(first), _compared(second)
    weight = float(one[:, SCORE_COLUMN].sum() + other[:, SCORE_COLUMN].sum())
    if not len(one) or not len(other):
        return weight, weight
    overlaps = pairwise_overlap(one[:, :4], other[:, :4])
    near = 1.0 - np.abs(one[:, SCORE_COLUMN, np.newaxis] - other[:, SCORE_COLUMN])
    same = one[:, CLASS_COLUMN, np.newaxis] == other[:, CLASS_COLUMN]
    found = np.where(same, overlaps * np.maximum(near, 0.0), 0.0)
    missed = (one[:, SCORE_COLUMN] * (1.0 - found.max(axis=1))).sum()
    invented = (other[:, SCORE_COLUMN] * (1.0 - found.max(axis=0))).sum()
    return float(missed + invented), weight


def _compared(rows: Array) -> Array:
    order = np.argsort(-rows[:, SCORE_COLUMN], kind="stable")[:_MOST_COMPARED]
    chosen: Array = rows[order][rows[order][:, CLASS_COLUMN] >= 0]
    return chosen
