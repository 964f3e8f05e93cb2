# SPDX-License-Identifier: Apache-2.0
"""Judge candidates against the float model on one part of the samples, as the reference kernels answer."""

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.running.execution import predict
from converter.adapters.running.parallel import share, worker_count
from converter.adapters.samples.sets import SampleSet, prepared
from converter.core.detection import read_as
from converter.core.detection_metrics import (
    detection_distance,
    mean_average_precision,
    own_boxes,
    resampled_precision,
)
from converter.core.scoring import Metric, check_labels, compare, interval, top1, top1_accuracy, whole_drop
from edgefleet.contracts.evidence import Interval
from edgefleet.contracts.manifest import DetectionRole, Preprocessing, Task
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.metrics import rank_correlation
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]
#: A candidate keeps the accuracy budget where it does so with nine chances in ten: the upper end of this interval.
GATE_LEVEL = 0.8
#: Prepared inputs are kept while they take no more than this; larger sets are prepared again for each candidate.
_KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class Answering:
    """How a model is asked, and what its answers are worth: what all candidates of a search have in common."""

    preprocessing: Preprocessing
    task: Task
    roles: tuple[DetectionRole, ...]
    metric: Metric


@dataclass(frozen=True)
class Judged:
    """A candidate against the float model on one part of the samples."""

    drop: float
    worst_drop: float
    distance: float
    interval: Interval


@dataclass(frozen=True)
class Judge:
    """Compares models with the float model on one set of samples; ``whole`` is what counts as a drop of 1."""

    how: Answering
    metric: Metric
    inputs: "_Inputs"
    labels: Array
    float_outputs: Array
    whole: float

    @classmethod
    def of(cls, float_model: bytes, samples: SampleSet, how: Answering) -> "Judge":
        """Ask the float model.

        Raises:
            SampleError: samples or labels do not fit the model or the task.
        """
        inputs = _Inputs(samples, how.preprocessing)
        float_outputs = _answers(float_model, inputs, how)
        metric, labels = _yardstick(samples, float_outputs, how)
        return cls(how, metric, inputs, labels, float_outputs, whole_drop(metric, labels))

    def first(self, count: int) -> "Judge":
        """Return the judge of the first samples alone."""
        return replace(
            self, inputs=self.inputs.first(count), labels=self.labels[:count], float_outputs=self.float_outputs[:count]
        )

    def judge(self, model: bytes) -> Judged:
        """Return the drop of the metric, float minus model (the other way round for an error), and its interval."""
        outputs = _answers(model, self.inputs, self.how)
        compared = compare(
            self.metric, self.float_outputs, outputs, self.labels, task=read_as(self.how.task, self.how.roles)
        )
        drop = self._sign * compared.difference / self.whole + 0.0  # never minus zero
        return Judged(drop, self._worst_drop(outputs), self._apart(outputs), self._as_drop(compared.interval))

    def distance(self, model: bytes) -> float:
        """Return how far a model's outputs lie from the float model's."""
        return self._apart(_answers(model, self.inputs, self.how))

    def _apart(self, outputs: Array) -> float:
        if self.how.roles:
            return detection_distance(self.float_outputs, outputs)
        return _distance(self.float_outputs, outputs)

    def _worst_drop(self, outputs: Array) -> float:
        """Return the unfavourable end of the drop's interval; nothing is uncertain about equal outputs."""
        if np.array_equal(outputs, self.float_outputs):
            return 0.0
        return self._as_drop(interval(self.metric, self.float_outputs, outputs, self.labels, level=GATE_LEVEL)).high

    def _as_drop(self, found: Interval) -> Interval:
        """Return the interval of a difference, model minus float, as one of the drop."""
        low, high = sorted(self._sign * end / self.whole + 0.0 for end in (found.low, found.high))
        return Interval(low=low, high=high, level=found.level, method=found.method)

    @property
    def _sign(self) -> float:
        return -1.0 if self.metric.larger_is_better else 1.0


class _Inputs:
    """The prepared samples of a set, kept in memory where they are few."""

    def __init__(self, samples: SampleSet, how: Preprocessing) -> None:
        self._samples, self._how, self._count = samples, how, len(samples)
        size = sum(value.nbytes for value in self._prepared(0)) * self._count
        self._kept = [self._prepared(n) for n in range(self._count)] if size <= _KEPT_BYTES else None

    def first(self, count: int) -> "_Inputs":
        """Return the first samples alone."""
        part = copy(self)
        part._count = min(count, self._count)
        return part

    def __iter__(self) -> Iterator[list[Array]]:
        for number in range(self._count):
            yield self._prepared(number) if self._kept is None else self._kept[number]

    def _prepared(self, number: int) -> list[Array]:
        return prepared(self._samples, number, self._how)


def _answers(model: bytes, inputs: _Inputs, how: Answering) -> Array:
    """Return a model's answers in the order of the inputs; each thread has an interpreter of its own."""

    def worker() -> Callable[[list[Array]], Array]:
        interpreter = LiteRtInterpreter(model, kernels="reference")

        def answer(sample: list[Array]) -> Array:
            interpreter.reset_state()  # which thread meets which sample is chance
            return predict(interpreter, [to_model_inputs(sample, interpreter.inputs)], how.task, how.roles)

        return answer

    return np.concatenate(share(iter(inputs), [worker() for _ in range(worker_count())]))


def relative_error(outputs: Array, float_outputs: Array) -> float:
    """Return the squared difference from the float model's outputs as a share of their own variance."""
    wanted = float_outputs.astype(np.float64)
    spread = float(((wanted - wanted.mean(axis=0)) ** 2).sum())
    return float(((outputs - wanted) ** 2).sum()) / spread if spread > 0.0 else 0.0


def _yardstick(samples: SampleSet, float_outputs: Array, how: Answering) -> tuple[Metric, Array]:
    """Return the metric and its labels; without labels, how far answers are from the float model's own."""
    if samples.labels is not None:
        answers = float_outputs.size // len(float_outputs)
        check_labels(samples.labels, answers, task=how.task, source=samples.source, roles=how.roles)
        return how.metric, samples.labels
    if how.task == "classification":
        return Metric("agreement with float", top1_accuracy), top1(float_outputs)
    if how.task == "anomaly":
        return Metric("rank correlation with float", rank_correlation), float_outputs
    if how.roles:
        metric = Metric("map50 against float's own", mean_average_precision, resampled=resampled_precision)
        return metric, own_boxes(float_outputs)
    return Metric("squared error relative to float", relative_error, larger_is_better=False), float_outputs


def _distance(float_outputs: Array, outputs: Array) -> float:
    """Return the mean absolute difference; infinite where an output is not finite."""
    apart = float(np.abs(outputs.astype(np.float64) - float_outputs).mean())
    return apart if math.isfinite(apart) else math.inf
