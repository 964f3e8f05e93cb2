# SPDX-License-Identifier: Apache-2.0
"""Which class was taken for which, and precision, recall and F1 of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.detection_metrics import taken_for
from edgefleet.contracts.evidence import ClassScore, Confusion
from edgefleet.runtimes.metrics import class_figures, confusion_counts

Array = npt.NDArray[Any]
#: With more classes than this the matrix is left out (it would be the largest part of the evidence).
LARGEST_MATRIX = 100


def confusion(predicted: Array, actual: Array, class_names: Sequence[str], *, classes: int) -> Confusion:
    """Return the confusion of class numbers, both of shape (samples,); classes without a name go by their number.

    A prediction of -1 (the answer was not finite) is in no column, and missed by its class. ``counts`` is empty for
    more than ``LARGEST_MATRIX`` classes.
    """
    return _confusion(predicted, actual, np.zeros(0, np.int64), class_names, classes=classes)


def detection_confusion(outputs: Array, labels: Array, class_names: Sequence[str]) -> Confusion:
    """Return the confusion of detections with a score from 0.5 and labelled boxes, an overlap of 0.5 matching them.

    ``counts`` has what each labelled box was taken for; a box that was missed is in no column. A class's precision
    counts detections where no box is as well. Classes are those that are named, labelled or detected.
    """
    actual, predicted, invented = taken_for(outputs, labels)
    highest = max(value.max(initial=-1) for value in (actual, predicted, invented))
    classes = max(len(class_names), int(highest) + 1)
    return _confusion(predicted, actual, invented, class_names, classes=classes)


def _confusion(
    predicted: Array, actual: Array, invented: Array, class_names: Sequence[str], *, classes: int
) -> Confusion:
    """Return the confusion; ``invented`` are answers that belong to no sample."""
    counts = confusion_counts(predicted, actual, classes)
    samples = np.bincount(actual.astype(np.int64), minlength=classes)
    figures = class_figures(counts, samples, np.bincount(invented, minlength=classes))
    named = [*class_names, *(str(number) for number in range(len(class_names), classes))]
    return Confusion(
        counts=tuple(tuple(map(int, row)) for row in counts) if classes <= LARGEST_MATRIX else (),
        classes=tuple(
            ClassScore(
                label=named[number],
                samples=int(samples[number]),
                precision=float(figures.precision[number]),
                recall=float(figures.recall[number]),
                f1=float(figures.f1[number]),
            )
            for number in range(classes)
        ),
    )


def confusion_table(found: Confusion) -> str:
    """Return the figures of each class as a text table, one line a class."""
    width = max([5, *(len(row.label) for row in found.classes)])
    lines = [f"{'class':<{width}} {'samples':>7} {'precision':>9} {'recall':>7} {'F1':>7}"]
    lines += [
        f"{row.label:<{width}} {row.samples:>7} {row.precision:>9.4f} {row.recall:>7.4f} {row.f1:>7.4f}"
        for row in found.classes
    ]
    return "\n".join(lines)
