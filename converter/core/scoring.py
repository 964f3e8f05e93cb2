# SPDX-License-Identifier: Apache-2.0
"""From a model's outputs to a metric, to a comparison with the float model, and to reference histograms."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.contracts.evidence import FloatComparison, Interval, Score
from edgefleet.contracts.manifest import ReferenceHistograms, Task
from edgefleet.runtimes.answers import read_answer
from edgefleet.runtimes.metrics import accuracy, mean_squared_error, paired_accuracy_interval, recall_per_class

Array = npt.NDArray[Any]
MetricFunction = Callable[[Array, Array], float]
_CONFIDENCE_BINS = 20
_RESAMPLES = 200
_SEED = 1


@dataclass(frozen=True)
class Metric:
    """A named figure: ``function(outputs, labels)``, outputs real-valued with shape (samples, …)."""

    name: str
    function: MetricFunction


def top1_accuracy(outputs: Array, labels: Array) -> float:
    """Return the share of samples whose largest output is the label's; not-finite outputs are wrong."""
    return accuracy(top1(outputs), labels)


def squared_error(outputs: Array, targets: Array) -> float:
    """Return the mean squared difference; both have as many values a sample, in any shape."""
    return mean_squared_error(outputs.reshape(len(outputs), -1), targets.reshape(len(outputs), -1))


def area_under_roc(scores: Array, labels: Array) -> float:
    """Return the probability that an anomaly (label 1) scores above a normal sample (label 0); ties count half."""
    anomalous, normal = scores[labels == 1].reshape(-1), scores[labels == 0].reshape(-1)
    if not len(anomalous) or not len(normal):
        return float("nan")
    above = (anomalous[:, np.newaxis] > normal).sum() + 0.5 * (anomalous[:, np.newaxis] == normal).sum()
    return float(above / (len(anomalous) * len(normal)))


def default_metric(task: Task) -> Metric:
    """Return a task's own metric.

    Raises:
        InputError: the task has none (detection).
    """
    metrics = {
        "classification": Metric("accuracy", top1_accuracy),
        "regression": Metric("mse", squared_error),
        "anomaly": Metric("auc", area_under_roc),
    }
    if task not in metrics:
        raise InputError(f"the task '{task}' has no metric of its own", hint="name one: --metric module:function")
    return metrics[task]


def top1(outputs: Array) -> Array:
    """Return each sample's class, -1 where an output is not finite; ``outputs`` has shape (samples, …)."""
    flat = outputs.reshape(len(outputs), -1)
    return np.where(np.isfinite(flat).all(axis=1), np.nan_to_num(flat).argmax(axis=1), -1)


def check_labels(labels: Array, answers: int, *, task: Task, source: str) -> None:
    """Refuse labels that do not fit the task; ``answers`` is the number of values in the model's first output.

    Raises:
        SampleError: they are no class numbers (classification), no numbers of the answer's size (regression), or not 0
            and 1 (anomaly).
    """
    checks = {"classification": _check_classes, "regression": _check_targets, "anomaly": _check_anomalies}
    if task in checks:
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


def score(metric: Metric, outputs: Array, labels: Array, task: Task) -> Score:
    """Return the metric's value, and for classification each class's recall.

    Raises:
        SampleError: the value is NaN or infinite.
    """
    classes = outputs.reshape(len(outputs), -1).shape[1]
    per_class = recall_per_class(top1(outputs), labels, classes) if task == "classification" else ()
    value = metric.function(outputs, labels)
    if not math.isfinite(value):
        raise SampleError(
            f"the metric '{metric.name}' of the samples is {value}, not a number that can be compared",
            hint="give finite samples of each kind ('auc' needs labels 0 and 1), and check the model's answers",
        )
    return Score(metric=metric.name, value=value, samples=len(outputs), per_class=per_class)


def compare(metric: Metric, float_outputs: Array, outputs: Array, labels: Array) -> FloatComparison:
    """Compare a converted model with its float source on the same samples.

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
    return FloatComparison(
        float_value=before,
        difference=after - before,
        interval=_interval(metric, float_outputs, outputs, labels),
        top1_agreement=accuracy(top1(outputs), top1(float_outputs)),
        mean_abs_delta=float(np.abs(outputs.astype(np.float64) - float_outputs).mean()),
    )


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
