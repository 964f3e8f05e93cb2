# SPDX-License-Identifier: Apache-2.0
"""From a model's outputs to a metric, to a comparison with the float model, and to reference histograms."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.detection import CLASS_COLUMN, LARGEST_CLASS, read_as
from converter.core.detection_metrics import (
    mean_average_precision,
    most_certain_class,
    ordered_scores,
    precision_per_class,
    resampled_precision,
)
from edgefleet.contracts.errors import ModelFailedError, SampleError
from edgefleet.contracts.evidence import FloatComparison, Interval, Score
from edgefleet.contracts.manifest import DetectionRole, ReferenceHistograms, Task
from edgefleet.runtimes import metrics
from edgefleet.runtimes.answers import read_answer
from edgefleet.runtimes.metrics import (
    accuracy,
    coefficient_of_determination,
    mean_absolute_error,
    mean_squared_error,
    paired_accuracy_interval,
    rank_correlation,
    recall_per_class,
)

Array = npt.NDArray[Any]
MetricFunction = Callable[[Array, Array], float]
Resampled = Callable[[Array, Array, Array], Array]
#: The level of the intervals that are reported.
LEVEL = 0.95
#: Of the reference histograms.
CONFIDENCE_BINS = 20
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

    ``is_error`` marks errors against targets, which have the targets' unit: a drop of 1 is that of always answering
    their mean. ``resampled(outputs, labels, picks)`` returns the values of samples drawn anew, where there is a faster
    way than to call ``function`` for each draw.
    """

    name: str
    function: MetricFunction
    larger_is_better: bool = True
    is_error: bool = False
    resampled: Resampled | None = None


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


_METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": (Metric("accuracy", top1_accuracy), Metric("macro-f1", macro_f1)),
    "regression": (
        Metric("mse", squared_error, larger_is_better=False, is_error=True),
        Metric("mae", absolute_error, larger_is_better=False, is_error=True),
        Metric("rmse", root_squared_error, larger_is_better=False, is_error=True),
        Metric("r2", explained_variance),
    ),
    "anomaly": (Metric("auc", area_under_roc),),
    "detection": (Metric("map50", mean_average_precision, resampled=resampled_precision),),
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


def check_labels(
    labels: Array, answers: int, *, task: Task, source: str, roles: Sequence[DetectionRole] | None = None
) -> None:
    """Refuse labels that do not fit the task; ``answers`` is the number of values in the model's first output.

    A detector without ``roles`` is scored by a metric of the user's own, which takes any labels.

    Raises:
        SampleError: they are no class numbers (classification), no numbers of the answer's size (regression), not 0
            and 1 (anomaly), or no boxes (detection).
    """
    if roles is not None and read_as(task, roles) != task:
        return
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
    classes = labels[:, :, CLASS_COLUMN]
    if not np.isin(classes, np.arange(-1, LARGEST_CLASS + 1)).all():
        raise SampleError(
            f"{source} has boxes whose last column is no class, expected whole numbers from -1 to {LARGEST_CLASS}",
            hint="number the classes from 0 as the model does, and give rows that are no box the class -1",
        )
    boxes = labels[classes >= 0]
    if not (np.isfinite(boxes).all() and (boxes[:, 0] <= boxes[:, 2]).all() and (boxes[:, 1] <= boxes[:, 3]).all()):
        raise SampleError(
            f"{source} has boxes that end before they begin",
            hint="store 'y' as rows of y0, x0, y1, x1 (top, left, bottom, right) and class, in the units of the "
            "model's boxes",
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
        SampleError: the float model answers a sample with NaN or infinity, or the metric is no number on the samples.
        ModelFailedError: the converted model answers a sample with NaN or infinity.
    """
    wrong = int((~np.isfinite(float_outputs.reshape(len(labels), -1))).any(axis=1).sum())
    if wrong:
        raise SampleError(
            f"the float model answers {wrong} of {len(labels)} evaluation samples with NaN or infinity",
            hint="leave these samples out, or correct the model",
        )
    broken = int((~np.isfinite(outputs.reshape(len(labels), -1))).any(axis=1).sum())
    if broken:
        raise ModelFailedError(
            f"the converted model answers {broken} of {len(labels)} evaluation samples with NaN or infinity, "
            "and the float model does not",
            hint="convert it in another precision",
        )
    before, after = metric.function(float_outputs, labels), metric.function(outputs, labels)
    if not (math.isfinite(before) and math.isfinite(after)):
        raise SampleError(
            f"the metric '{metric.name}' is {before} of the float model and {after} of the converted one, "
            "which cannot be compared",
            hint="give enough samples of each kind: 'auc' needs both labels, 'map50' labelled boxes, 'r2' targets that "
            "vary",
        )
    return FloatComparison(
        float_value=before,
        difference=after - before,
        interval=interval(metric, float_outputs, outputs, labels),
        top1_agreement=_top1_agreement(float_outputs, outputs, task),
        rank_correlation=_rank_correlation(float_outputs, outputs, task),
        mean_abs_delta=_mean_abs_delta(float_outputs, outputs, task),
    )


def _top1_agreement(float_outputs: Array, outputs: Array, task: Task) -> float | None:
    if task == "classification":
        return accuracy(top1(outputs), top1(float_outputs))
    if task == "detection":
        return accuracy(most_certain_class(outputs), most_certain_class(float_outputs))
    return None


def _rank_correlation(float_outputs: Array, outputs: Array, task: Task) -> float | None:
    """Return Spearman's of scores of anomalies; None where one model gives all samples the same score."""
    found = rank_correlation(outputs, float_outputs) if task == "anomaly" else math.nan
    return found if math.isfinite(found) else None


def _mean_abs_delta(float_outputs: Array, outputs: Array, task: Task) -> float:
    if task == "detection":
        float_outputs, outputs = ordered_scores(float_outputs), ordered_scores(outputs)
    return float(np.abs(outputs.astype(np.float64) - float_outputs).mean())


def whole_drop(metric: Metric, labels: Array) -> float:
    """Return what counts as a drop of 1 (100 points): for errors that of always answering the mean of the targets.

    Raises:
        SampleError: the targets do not vary, so that an error has nothing to be compared with.
    """
    if not metric.is_error:
        return 1.0
    targets = labels.reshape(len(labels), -1).astype(np.float64)
    whole = metric.function(np.broadcast_to(targets.mean(axis=0), targets.shape), targets)
    if not whole > 0.0:
        raise SampleError(
            f"the targets do not vary, so that no drop of '{metric.name}' can be told from them",
            hint="give evaluation samples with different targets",
        )
    return whole


def histograms(outputs: Array) -> ReferenceHistograms:
    """Count the answered classes and the top-1 confidences, as a device counts them."""
    answers = [read_answer([sample]) for sample in outputs]
    finite = [answer for answer in answers if answer.finite]
    classes = np.bincount([a.top for a in finite], minlength=outputs[0].size)
    bins = np.minimum((np.array([a.confidence for a in finite]) * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    confidence = np.bincount(bins, minlength=CONFIDENCE_BINS)
    return ReferenceHistograms(classes=tuple(map(int, classes)), confidence=tuple(map(int, confidence)))


def interval(metric: Metric, float_outputs: Array, outputs: Array, labels: Array, *, level: float = LEVEL) -> Interval:
    """Return the paired interval of the metric's difference, converted minus float.

    Raises:
        SampleError: no draw of the samples has what the metric needs.
    """
    if metric.function is top1_accuracy:
        paired = paired_accuracy_interval(top1(float_outputs) == labels, top1(outputs) == labels, level=level)
        return Interval(low=paired.low, high=paired.high, level=paired.level, method=paired.method)
    chance = np.random.default_rng(_SEED)
    picks = np.stack([chance.integers(0, len(labels), len(labels)) for _ in range(_RESAMPLES)])
    changes = _resampled(metric, outputs, labels, picks) - _resampled(metric, float_outputs, labels, picks)
    known = changes[np.isfinite(changes)]
    if not known.size:
        raise SampleError(
            f"the {len(labels)} samples are too few of a kind to tell how certain '{metric.name}' is",
            hint="give more evaluation samples",
        )
    low, high = np.quantile(known, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Interval(
        low=float(low), high=float(high), level=level, method=f"paired bootstrap, {_RESAMPLES} resamples, percentile"
    )


def _resampled(metric: Metric, outputs: Array, labels: Array, picks: Array) -> Array:
    if metric.resampled is not None:
        return metric.resampled(outputs, labels, picks)
    return np.array([metric.function(outputs[pick], labels[pick]) for pick in picks])
