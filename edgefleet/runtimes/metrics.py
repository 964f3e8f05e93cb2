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


def mean_absolute_error(predicted: Array, actual: Array) -> float:
    """Return the mean absolute difference over all entries."""
    return float(np.mean(np.abs(predicted.astype(np.float64) - actual.astype(np.float64))))


def coefficient_of_determination(predicted: Array, actual: Array) -> float:
    """Return R²: 1 minus squared error over squared deviation from each column's mean, all columns pooled.

    Both have shape (samples, values). NaN where the targets do not vary.
    """
    wanted = actual.astype(np.float64)
    residual = float(np.sum((predicted.astype(np.float64) - wanted) ** 2))
    spread = float(np.sum((wanted - wanted.mean(axis=0)) ** 2))
    return 1.0 - residual / spread if spread else math.nan


def confusion_counts(predicted: Array, actual: Array, classes: int) -> Array:
    """Return ``counts[actual, predicted]``, shape (classes, classes); a prediction of -1 is in no column."""
    answered = predicted >= 0
    cells = actual[answered].astype(np.int64) * classes + predicted[answered].astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


class ClassFigures(NamedTuple):
    """Precision, recall and F1 of each class, shape (classes,); 0 where there is nothing to divide by."""

    precision: Array
    recall: Array
    f1: Array


def class_figures(counts: Array, samples: Array, invented: Array | int = 0) -> ClassFigures:
    """Return each class's figures from ``counts[actual, predicted]`` and the number of samples that have each class.

    F1 is ``2 hits / (samples + predictions)``: a sample without an answer is missed by its class. ``invented`` counts
    each class's predictions that belong to no sample.
    """
    hits, predicted = np.diagonal(counts).astype(np.float64), counts.sum(axis=0) + invented
    return ClassFigures(
        precision=hits / np.maximum(predicted, 1),
        recall=hits / np.maximum(samples, 1),
        f1=2.0 * hits / np.maximum(samples + predicted, 1),
    )


def macro_f1(predicted: Array, actual: Array, classes: int) -> float:
    """Return the mean F1 over the classes that a sample has or that were answered; NaN without samples."""
    counts = confusion_counts(predicted, actual, classes)
    samples = np.bincount(actual.astype(np.int64), minlength=classes)
    seen = (samples > 0) | (counts.sum(axis=0) > 0)
    return float(class_figures(counts, samples).f1[seen].mean()) if seen.any() else math.nan


def ranks(values: Array) -> Array:
    """Return each value's rank from 1 (the smallest), equal values sharing the mean of theirs; shape (n,)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Array = (last - (counts - 1) / 2.0)[place]
    return shared


def rank_correlation(first: Array, second: Array) -> float:
    """Return Spearman's rank correlation of two arrays of equal size, ties sharing their mean rank.

    NaN where one of them does not vary.
    """
    a, b = (ranks(values.reshape(-1)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(np.sum(a * a)) * float(np.sum(b * b)))
    return float(np.sum(a * b)) / length if length else math.nan


def area_under_roc(positive: Array, negative: Array) -> float:
    """Return the probability that one of ``positive`` lies above one of ``negative``; ties count half.

    This is Mann and Whitney's U over the number of pairs, from ranks. NaN where either is empty; a NaN among the
    scores counts as the wrong side.
    """
    if not positive.size or not negative.size:
        return math.nan
    high = np.where(np.isnan(positive), -np.inf, positive).reshape(-1)
    low = np.where(np.isnan(negative), np.inf, negative).reshape(-1)
    above = float(ranks(np.concatenate([high, low]))[: high.size].sum()) - high.size * (high.size + 1) / 2.0
    return above / (high.size * low.size)


class Matches(NamedTuple):
    """One class's detections over images, by falling score (ties by image, then row).

    ``image`` is where each was found, ``hit`` whether it matched a wanted box, both of shape (detections,); ``wanted``
    counts the wanted boxes of each image, shape (images,).
    """

    image: Array
    hit: Array
    wanted: Array


def match_detections(found: Sequence[Array], wanted: Sequence[Array], *, least_overlap: float = 0.5) -> Matches:
    """Match one class's detections with the wanted boxes.

    ``found[i]``: rows (y0, x0, y1, x1, score) of image i; ``wanted[i]``: rows (y0, x0, y1, x1). All detections are
    taken by falling score; each matches the unmatched wanted box of its image with which its intersection over union
    is largest, if that reaches ``least_overlap``.
    """
    hits = [_hits(rows, boxes, least_overlap) for rows, boxes in zip(found, wanted, strict=True)]
    image = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    scores = np.concatenate([np.zeros(0), *(np.asarray(rows, np.float64)[:, 4] for rows in found)])
    order = np.argsort(-scores, kind="stable")
    return Matches(
        image=image[order],
        hit=np.concatenate([np.zeros(0, bool), *hits])[order],
        wanted=np.array([len(boxes) for boxes in wanted], np.int64),
    )


def average_precision(found: Sequence[Array], wanted: Sequence[Array], *, least_overlap: float = 0.5) -> float:
    """Return one class's average precision over images; arguments as in :func:`match_detections`.

    It is the area under the precision envelope at every recall (PASCAL VOC 2010 and later). NaN without wanted boxes.
    """
    matches = match_detections(found, wanted, least_overlap=least_overlap)
    return float(weighted_precision(matches, np.ones((1, len(matches.wanted)), np.int64))[0])


def weighted_precision(matches: Matches, weights: Array) -> Array:
    """Return the average precision where image i counts ``weights[k, i]`` times, shape (k,); NaN without boxes."""
    each = weights[:, matches.image]
    hits = each * matches.hit
    seen = np.cumsum(each, axis=1)
    precision = np.cumsum(hits, axis=1) / np.maximum(seen, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = (weights * matches.wanted).sum(axis=1)
    area = (envelope * hits).sum(axis=1)
    return np.where(total > 0, area / np.maximum(total, 1), math.nan)


def _hits(rows: Array, boxes: Array, least_overlap: float) -> Array:
    """Return which of one image's detections match a wanted box; each box is taken once."""
    hits = np.zeros(len(rows), bool)
    if not len(rows) or not len(boxes):
        return hits
    overlaps = pairwise_overlap(rows[:, :4], boxes)
    near = np.flatnonzero(overlaps.max(axis=1) >= least_overlap)
    for place in near[np.argsort(-rows[near, 4], kind="stable")]:
        best = int(overlaps[place].argmax())
        if overlaps[place, best] >= least_overlap:
            hits[place] = True
            overlaps[:, best] = -1.0
    return hits


def overlap(box: Array, boxes: Array) -> Array:
    """Return the intersection over union of one box (y0, x0, y1, x1) with each of ``boxes``, shape (boxes, 4)."""
    return np.asarray(pairwise_overlap(box[np.newaxis], boxes)[0])


def pairwise_overlap(first: Array, second: Array) -> Array:
    """Return the intersection over union of boxes (n, 4) with boxes (m, 4), shape (n, m)."""
    low = np.maximum(first[:, np.newaxis, :2], second[:, :2])
    high = np.minimum(first[:, np.newaxis, 2:4], second[:, 2:4])
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    union = _area(first)[:, np.newaxis] + _area(second) - shared
    return np.where(union > 0.0, shared / np.where(union > 0.0, union, 1.0), 0.0)


def _area(boxes: Array) -> Array:
    return np.asarray(np.prod(np.maximum(boxes[:, 2:4] - boxes[:, :2], 0.0), axis=1))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)
