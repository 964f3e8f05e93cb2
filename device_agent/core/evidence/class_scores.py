# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 of each class, out of confusion counts; what has no samples is undefined, never 0."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import Confusion


class ClassCounts(Fact, frozen=True, array_like=True):
    """Of one class: how often it was right, was due, and was answered."""

    right: Natural = 0
    actual: Natural = 0
    predicted: Natural = 0


#: The counts of a model's classes, by number.
ByClass = Mapping[int, ClassCounts]


class Scores(NamedTuple):
    """Shares from 0 to 1; None where there is nothing to divide by."""

    precision: float | None
    recall: float | None
    f1: float | None


def scores(counts: ClassCounts) -> Scores:
    """Return one class's scores; F1 is undefined only for a class that was neither due nor answered."""
    return Scores(
        precision=_share(counts.right, counts.predicted),
        recall=_share(counts.right, counts.actual),
        f1=_share(2 * counts.right, counts.actual + counts.predicted),
    )


def macro(by_class: ByClass) -> Scores:
    """Return the mean of each score over the classes for which it is defined."""
    columns = zip(*(scores(counts) for counts in by_class.values()), strict=True)
    return Scores(*(_mean(column) for column in columns)) if by_class else Scores(None, None, None)


def accuracy(by_class: ByClass) -> float | None:
    """Return the share of labels that the model had right."""
    return _share(sum(counts.right for counts in by_class.values()), labels(by_class))


def labels(by_class: ByClass) -> int:
    """Return how many labels were counted."""
    return sum(counts.actual for counts in by_class.values())


def counted(by_class: ByClass, confusion: Confusion) -> dict[int, ClassCounts]:
    """Return the counts with a window's confusion on them."""
    total = dict(by_class)
    for actual, predicted, count in zip(confusion.actual, confusion.predicted, confusion.counts, strict=True):
        due, given = total.get(actual, ClassCounts()), count if actual == predicted else 0
        total[actual] = ClassCounts(due.right + given, due.actual + count, due.predicted)
        said = total.get(predicted, ClassCounts())
        total[predicted] = ClassCounts(said.right, said.actual, said.predicted + count)
    return total


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
