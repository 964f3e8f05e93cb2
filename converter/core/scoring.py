# SPDX-License-Identifier: Apache-2.0
"""From a model's outputs to a metric, to a comparison with the float model, and to reference histograms."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.detection import CLASS_COLUMN, SCORE_COLUMN
from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.contracts.evidence import FloatComparison, Interval, Score
from edgefleet.contracts.manifest import ReferenceHistograms, Task
from edgefleet.runtimes import metrics
from edgefleet.runtimes.answers import read_answer
from edgefleet.runtimes.metrics import (
    accuracy,
    average_precision,
    coefficient_of_determination,
    mean_absolute_error,
    mean_squared_error,
    paired_accuracy_interval,
    recall_per_class,
)

Array = npt.NDArray[Any]
MetricFunction = Callable[[Array, Array], float]
_CONFIDENCE_BINS = 20
_RESAMPLES = 200
_SEED = 1
#: Columns of a labelled box: y0, x0, y1, x1, class.
_BOX_COLUMNS = 5


@dataclass(frozen=True)
class Metric:
    """A named figure: ``function(outputs, labels)``, outputs real-valued with shape (samples, …).

    ``larger_is_better`` is False for errors. For detection, outputs are rows as :mod:`converter.core.detection` makes
    them, and labels have the shape (samples, boxes, 5): y0, x0, y1, x1, class, in the units of the model's boxes, class
    -1 in rows without a box.
    """

    name: str
    function: MetricFunction
    larger_is_better: bool = True


def top1_accuracy(outputs: Array, labels: Array) -> float:
    """Return the share of samples whose largest output is the label's; not-finite outputs are wrong."""
    return accuracy(top1(outputs), labels)


def squared_error(outputs: Array, targets: Array) -> float:
    """Return the mean squared difference; both have as many values a sample, in any shape."""
    return mean_squared_error(outputs.reshape(len(outputs), -1), targets.reshape(len(outputs), -1))


def macro_f1(outputs: Array, labels: Array) -> float:
    """Return the mean over classes of F1, of the classes that occur in labels or answers."""
    return metrics.macro_f1(top1(outputs), labels, outputs.reshape(len(outputs), -1).shape[1])


def absolute_error(outputs: Array, targets: Array) -> float:
    """Return the mean absolute difference; shapes as in :func:`squared_error`."""
    return mean_absolute_error(outputs.reshape(len(outputs), -1), targets.reshape(len(outputs), -1))


def root_squared_error(outputs: Array, targets: Array) -> float:
    """Return the root of the mean squared difference, in the units of the targets."""
    return math.sqrt(squared_error(outputs, targets))


def explained_variance(outputs: Array, targets: Array) -> float:
    """Return R²; NaN where the targets do not vary."""
    return coefficient_of_determination(outputs.reshape(len(outputs), -1), targets.reshape(len(outputs), -1))


def area_under_roc(scores: Array, labels: Array) -> float:
    """Return the probability that an anomaly (label 1) scores above a normal sample (label 0); ties count half."""
    return metrics.area_under_roc(scores[labels == 1], scores[labels == 0])


def mean_average_precision(outputs: Array, labels: Array) -> float:
    """Return mAP@0.5: the mean of :func:`edgefleet.runtimes.metrics.average_precision` over the labelled classes."""
    found = [value for value in precision_per_class(outputs, labels) if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan


def precision_per_class(outputs: Array, labels: Array) -> tuple[float, ...]:
    """Return each class's average precision at an overlap of 0.5, NaN for a class without labelled boxes.

    ``outputs`` has the shape (samples, rows, 6), ``labels`` (samples, boxes, 5); see :class:`Metric`.

    Raises:
        InputError: the outputs are no detections.
    """
    if outputs.ndim != 3 or outputs.shape[2] != SCORE_COLUMN + 1:
        raise InputError(
            f"the model's answers have the shape {list(outputs.shape[1:])}, and detections have [rows, 6]",
            hint="name what each output is (boxes, classes, scores, count), or a metric of your own",
        )
    classes = int(labels[:, :, CLASS_COLUMN].max(initial=-1)) + 1
    return tuple(
        average_precision(
            [rows[rows[:, CLASS_COLUMN] == number][:, [0, 1, 2, 3, SCORE_COLUMN]] for rows in outputs],
            [boxes[boxes[:, CLASS_COLUMN] == number][:, :CLASS_COLUMN] for boxes in labels],
        )
        for number in range(classes)
    )


_METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": (Metric("accuracy", top1_accuracy), Metric("macro-f1", macro_f1)),
    "regression": (
        Metric("mse", squared_error, larger_is_better=False),
        Metric("mae", absolute_error, larger_is_better=False),
        Metric("rmse", root_squared_error, larger_is_better=False),
        Metric("r2", explained_variance),
    ),
    "anomaly": (Metric("auc", area_under_roc),),
    "detection": (Metric("map50", mean_average_precision),),
}


def default_metric(task: Task) -> Metric:
    """Return a task's own metric, the first of :func:`task_metrics`."""
    return _METRICS[task][0]


def task_metrics(task: Task) -> tuple[Metric, ...]:
    """Return the metrics that a task has, its own first."""
    return _METRICS[task]


def top1(outputs: Array) -> Array:
    """Return each sample's class, -1 where an output is not finite; ``outputs`` has shape (samples, …)."""
    flat = outputs.reshape(len(outputs), -1)
    return np.where(np.isfinite(flat).all(axis=1), np.nan_to_num(flat).argmax(axis=1), -1)


def check_labels(labels: Array, answers: int, *, task: Task, source: str) -> None:
    """Refuse labels that do not fit the task; ``answers`` is the number of values in the model's first output.

    Raises:
        SampleError: they are no class numbers (classification), no numbers of the answer's size (regression), not 0
            and 1 (anomaly), or no boxes (detection).
    """
    checks = {
        "classification": _check_classes,
        "regression": _check_targets,
        "anomaly": _check_anomalies,
        "detection": _check_boxes,
    }
    checks[task](labels, answers, source)


def _check_classes(labels: Array, classes: int, source: str) -> None:
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all()))
    if labels.ndim != 1 or not whole or labels.min() < 0 or labels.max() >= classes:
        raise SampleError(
            f"{source} has labels that are no classes of the model, expected whole numbers from 0 to {classes - 1}",
            hint="number the classes from 0 in the order of the model's outputs",
        )


def _check_targets(labels: Array, answers: int, source: str) -> None:
    if labels.dtype.kind not in "biuf" or labels.size != len(labels) * answers:
        raise SampleError(
            f"{source} has targets of {labels.dtype} with shape {list(labels.shape)}, expected {answers} a sample",
            hint="store 'y' as numbers with the shape of the model's answers",
        )


def _check_anomalies(labels: Array, _: int, source: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise SampleError(
            f"{source} has labels that are neither 0 nor 1",
            hint="label each sample with 1 for an anomaly, 0 for a normal one",
        )


def _check_boxes(labels: Array, _: int, source: str) -> None:
    if labels.ndim != 3 or labels.shape[2] != _BOX_COLUMNS or labels.dtype.kind not in "iuf":
        raise SampleError(
            f"{source} has labels of {labels.dtype} with shape {list(labels.shape)}, "
            "expected boxes [samples, boxes, 5]",
            hint="store 'y' as rows of y0, x0, y1, x1 and class, with class -1 in rows that are no box",
        )


def score(metric: Metric, outputs: Array, labels: Array, task: Task) -> Score:
    """Return the metric's value, and each class's recall (classification) or average precision (detection).

    Raises:
        SampleError: the value is NaN or infinite.
    """
    per_class = _per_class(outputs, labels, task)
    value = metric.function(outputs, labels)
    if not math.isfinite(value):
        raise SampleError(
            f"the metric '{metric.name}' of the samples is {value}, not a number that can be compared",
            hint="give finite samples of each kind ('auc' needs labels 0 and 1), and check the model's answers",
        )
    return Score(metric=metric.name, value=value, samples=len(outputs), per_class=per_class)


def _per_class(outputs: Array, labels: Array, task: Task) -> tuple[float, ...]:
    if task == "classification":
        return recall_per_class(top1(outputs), labels, outputs.reshape(len(outputs), -1).shape[1])
    if task == "detection":
        return tuple(0.0 if math.isnan(value) else value for value in precision_per_class(outputs, labels))
    return ()


def compare(
    metric: Metric, float_outputs: Array, outputs: Array, labels: Array, *, task: Task = "classification"
) -> FloatComparison:
    """Compare a converted model with its float source on the same samples.

    ``top1_agreement`` of detections is the share of samples whose most certain row has the same class.

    Raises:
        SampleError: the float model answers a sample with NaN or infinity.
    """
    wrong = int((~np.isfinite(float_outputs.reshape(len(labels), -1))).any(axis=1).sum())
    if wrong:
        raise SampleError(
            f"the float model answers {wrong} of {len(labels)} evaluation samples with NaN or infinity",
            hint="leave these samples out, or correct the model",
        )
    before, after = metric.function(float_outputs, labels), metric.function(outputs, labels)
    first = _most_certain_class if task == "detection" else top1
    return FloatComparison(
        float_value=before,
        difference=after - before,
        interval=_interval(metric, float_outputs, outputs, labels),
        top1_agreement=accuracy(first(outputs), first(float_outputs)),
        mean_abs_delta=float(np.abs(outputs.astype(np.float64) - float_outputs).mean()),
    )


def _most_certain_class(outputs: Array) -> Array:
    """Return the class of each sample's row with the highest score; ``outputs`` are detections."""
    best = outputs[:, :, SCORE_COLUMN].argmax(axis=1)
    return np.asarray(outputs[np.arange(len(outputs)), best, CLASS_COLUMN])


def histograms(outputs: Array) -> ReferenceHistograms:
    """Count the answered classes and the top-1 confidences, as a device counts them."""
    answers = [read_answer([sample]) for sample in outputs]
    finite = [answer for answer in answers if answer.finite]
    classes = np.bincount([a.top for a in finite], minlength=outputs[0].size)
    bins = np.minimum((np.array([a.confidence for a in finite]) * _CONFIDENCE_BINS).astype(int), _CONFIDENCE_BINS - 1)
    confidence = np.bincount(bins, minlength=_CONFIDENCE_BINS)
    return ReferenceHistograms(classes=tuple(map(int, classes)), confidence=tuple(map(int, confidence)))


def _interval(metric: Metric, float_outputs: Array, outputs: Array, labels: Array) -> Interval:
    if metric.function is top1_accuracy:
        paired = paired_accuracy_interval(top1(float_outputs) == labels, top1(outputs) == labels)
        return Interval(low=paired.low, high=paired.high, level=paired.level, method=paired.method)
    chance = np.random.default_rng(_SEED)
    picks = [chance.integers(0, len(labels), len(labels)) for _ in range(_RESAMPLES)]
    changes = [metric.function(outputs[p], labels[p]) - metric.function(float_outputs[p], labels[p]) for p in picks]
    low, high = np.nanquantile(changes, [0.025, 0.975])
    return Interval(
        low=float(low), high=float(high), level=0.95, method=f"paired bootstrap, {_RESAMPLES} resamples, percentile"
    )
