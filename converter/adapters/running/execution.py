# SPDX-License-Identifier: Apache-2.0
"""Run models over samples: real outputs for metrics, raw tensors for parity, and the time an inference takes."""

import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.evidence import Latency
from edgefleet.contracts.manifest import Task
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.metrics import percentile
from edgefleet.runtimes.tensors import dequantize

Array = npt.NDArray[Any]
_LATENCY_RUNS = 100
_NS_PER_US = 1000.0


def predict(interpreter: Interpreter, inputs: Iterable[Sequence[Array]], task: Task) -> Array:
    """Return the first output of each sample, de-quantized, shape (samples, …) without the batch dimension.

    For the task ``anomaly`` of a model that reconstructs its input, that is the mean squared error of the
    reconstruction, shape (samples,).
    """
    reconstructs = task == "anomaly" and interpreter.inputs[0].shape == interpreter.outputs[0].shape
    answers: list[Array] = []
    for sample in inputs:
        output = dequantize(interpreter.invoke(sample)[0], interpreter.outputs[0])
        if reconstructs:
            wanted = dequantize(sample[0], interpreter.inputs[0])
            answers.append(np.asarray(np.mean((output.astype(np.float64) - wanted) ** 2)))
        else:
            answers.append(output[0] if output.shape[:1] == (1,) else output)
    if not answers:
        raise SampleError("the set has no samples", hint="give at least one sample")
    return np.stack(answers)


def run_all(interpreter: Interpreter, inputs: Iterable[Sequence[Array]]) -> list[Array]:
    """Return all outputs as they are, one array an output, first axis samples."""
    per_sample = [interpreter.invoke(sample) for sample in inputs]
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
