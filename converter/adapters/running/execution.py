# SPDX-License-Identifier: Apache-2.0
"""Run models over samples: real outputs for metrics, raw tensors for parity, and the time an inference takes."""

import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.detection import check_roles, detections
from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.evidence import Latency
from edgefleet.contracts.manifest import DetectionRole, Task
from edgefleet.runtimes.answers import silenced
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.metrics import percentile
from edgefleet.runtimes.tensors import dequantize

Array = npt.NDArray[Any]
_LATENCY_RUNS = 100
_NS_PER_US = 1000.0


def predict(
    interpreter: Interpreter, inputs: Iterable[Sequence[Array]], task: Task, roles: Sequence[DetectionRole] = ()
) -> Array:
    """Return each sample's answer, de-quantized and without the batch dimension, shape (samples, …).

    The answer is the first output; for the task ``anomaly`` of a model that reconstructs its input, the mean squared
    error of the reconstruction, shape (samples,); for a detector whose outputs have ``roles``, its detections, shape
    (samples, rows, 6).

    Raises:
        SampleError: there are no samples, or one does not fit.
        InputError: the outputs cannot have these roles.
        ModelFailedError: the interpreter failed.
    """
    if roles:
        check_roles(roles, interpreter.outputs)
    answers = [_answer(interpreter, sample, task, roles) for sample in inputs]
    if not answers:
        raise SampleError("the set has no samples", hint="give at least one sample")
    return np.stack(answers)


def _answer(interpreter: Interpreter, sample: Sequence[Array], task: Task, roles: Sequence[DetectionRole]) -> Array:
    outputs = interpreter.invoke(sample)
    if roles:
        real = [dequantize(output, spec) for output, spec in zip(outputs, interpreter.outputs, strict=True)]
        return detections(real, roles)
    first = dequantize(outputs[0], interpreter.outputs[0])
    if task == "anomaly" and interpreter.inputs[0].shape == interpreter.outputs[0].shape:
        wanted = dequantize(sample[0], interpreter.inputs[0])
        return np.asarray(np.mean((first.astype(np.float64) - wanted) ** 2))
    return first[0] if first.shape[:1] == (1,) else first


def run_all(
    interpreter: Interpreter, inputs: Iterable[Sequence[Array]], roles: Sequence[DetectionRole] = ()
) -> list[Array]:
    """Return all outputs as they are, one array an output, first axis samples.

    Of a detector whose outputs have ``roles``, the rows beyond its count are zeros.
    """
    per_sample = [silenced(interpreter.invoke(sample), interpreter.outputs, roles) for sample in inputs]
    return [np.stack([outputs[position] for outputs in per_sample]) for position in range(len(interpreter.outputs))]


def measure_latency(interpreter: Interpreter, sample: Sequence[Array]) -> Latency:
    """Time single inferences on this machine."""
    took_us = []
    for _ in range(_LATENCY_RUNS):
        started_ns = time.perf_counter_ns()
        interpreter.invoke(sample)
        took_us.append((time.perf_counter_ns() - started_ns) / _NS_PER_US)
    return Latency(
        host=f"{platform.machine()}, {platform.system()}",
        p50_us=percentile(took_us, 0.50),
        p99_us=percentile(took_us, 0.99),
        runs=_LATENCY_RUNS,
    )
