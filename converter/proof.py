# SPDX-License-Identifier: Apache-2.0
"""Prove a model and score it: parity vectors with measured tolerances, evaluation, acceptance examples."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.running.execution import predict, run_all
from converter.adapters.samples.sets import (
    SampleSet,
    canonical_order,
    class_numbers,
    model_inputs,
)
from converter.core.canonical_npz import canonical_npz
from converter.core.detection import read_as
from converter.core.parity_choice import (
    made_up_inputs,
    parity_count,
    production_tolerance,
    reference_tolerance,
    spread,
)
from converter.core.reports.confusion import confusion, detection_confusion
from converter.core.request import ConversionRequest
from converter.core.scoring import Metric, check_labels, compare, default_metric, histograms, score, top1
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import ModelFailedError, SampleError
from edgefleet.contracts.evidence import Confusion, FloatComparison, Score
from edgefleet.contracts.manifest import (
    AcceptanceExamples,
    DetectionRole,
    ReferenceHistograms,
    Task,
    TensorSpec,
    Tolerances,
)
from edgefleet.contracts.profile import Profile
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter
from edgefleet.runtimes.parity import difference

Array = npt.NDArray[Any]


#: Two steps of 8 bits, as a share of the range.
_STEPS = 2.0 / 255.0


@dataclass(frozen=True)
class SampleSets:
    """The sample sets that were named."""

    calibration: SampleSet | None
    evaluation: SampleSet | None
    acceptance: SampleSet | None


@dataclass(frozen=True)
class Proof:
    """Parity vectors and tolerances, measured."""

    inputs: list[Array]
    outputs: list[Array]
    tolerances: Tolerances


@dataclass(frozen=True)
class Quality:
    """What the model scores, where there are samples to score it on."""

    evaluation: Score | None
    confusion: Confusion | None
    comparison: FloatComparison | None
    reference: ReferenceHistograms | None
    acceptance: AcceptanceExamples | None


def host_kernels(profile: Profile) -> Kernels:
    """Return the kernels of LiteRT that are timed on this machine."""
    return "production" if profile.runtime.kind == "litert" else "reference"


def acceptance_npz(samples: SampleSet, input_names: list[str]) -> bytes:
    """Return acceptance examples in the one form that bundles carry; equal examples give equal bytes.

    Raises:
        SampleError: there are no labels, or the samples differ in shape and cannot be one array.
    """
    labels = class_numbers(samples)
    raw = [samples.raw(number) for number in range(len(samples))]
    shapes = sorted({str(list(value.shape)) for value in (sample[0] for sample in raw)})
    if len(shapes) > 1:
        raise SampleError(
            f"{samples.source} has acceptance examples of different shapes: {shapes[0]} and {shapes[1]}",
            hint="bring them to one size",
        )
    names = ["x"] if len(input_names) == 1 else input_names
    stacked = {name: np.stack([sample[position] for sample in raw]) for position, name in enumerate(names)}
    return canonical_npz({**stacked, "y": labels})


def prove(request: ConversionRequest, model: bytes, production: Interpreter, calibration: SampleSet | None) -> Proof:
    """Choose parity inputs, answer them with the reference, and measure how far the board's own runtime differs.

    The reference is LiteRT's reference kernels; for a microcontroller it is TFLM, which rounds by rules of its own.

    Raises:
        ModelFailedError: an answer is not finite, or the interpreter failed.
    """
    micro = request.profile.runtime.kind == "tflm"
    reference = production if micro else LiteRtInterpreter(model, kernels="reference")
    chosen = _parity_inputs(request, reference.inputs, calibration)
    expected = run_all(reference, chosen, request.roles)
    if not all(np.isfinite(output).all() for output in expected):
        raise ModelFailedError("the model answers its parity inputs with NaN or infinity", hint="correct the model")
    got = run_all(production, chosen, request.roles)
    worst = max(difference(g, e) for g, e in zip(got, expected, strict=True))
    if not math.isfinite(worst):
        raise ModelFailedError(
            "the model answers its parity inputs with NaN or infinity on the board's runtime, and with numbers on the "
            "reference kernels",
            hint="correct the model: some of its weights or scales are too large or damaged",
        )
    unit: Literal["lsb", "absolute"] = "lsb" if all(e.dtype.kind in "iu" for e in expected) else "absolute"
    tolerances = Tolerances(
        unit=unit,
        reference=reference_tolerance(unit, max(float(np.abs(e).max()) for e in expected)),
        production=production_tolerance(max(worst, _elsewhere(model, expected, request.roles)), unit),
    )
    inputs = [np.stack([sample[position] for sample in chosen]) for position in range(len(reference.inputs))]
    return Proof(inputs, expected, tolerances)


def _elsewhere(model: bytes, expected: list[Array], roles: tuple[DetectionRole, ...]) -> float:
    """Return how far the production kernels of another processor may lie from the reference, whatever this one's do.

    One step of an integer inside can bring a detector's rows into another order, or another class: all that its outputs
    span. Float answers of integers inside move by such steps.
    """
    span = max(float(np.ptp(output.astype(np.float64))) for output in expected)
    if {"classes", "count"} & set(roles):
        return span
    in_floats = any(output.dtype.kind == "f" for output in expected)
    return _STEPS * span if in_floats and read_facts(model).precision() == "mixed" else 0.0


def _parity_inputs(
    request: ConversionRequest, specs: tuple[TensorSpec, ...], calibration: SampleSet | None
) -> list[list[Array]]:
    """Return calibration samples spread over the set in its canonical order, or made-up inputs."""
    sample_bytes = sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in specs)
    count = parity_count(sample_bytes, None if calibration is None else len(calibration))
    if calibration is None:
        return [made_up_inputs(specs, number) for number in range(count)]
    order = canonical_order(calibration)
    picked = [order[place] for place in spread(count, len(order))]
    return list(model_inputs(calibration, picked, request.preprocessing, specs))


def vector_members(proof: Proof) -> dict[str, bytes]:
    """Return the bundle's members that hold the parity vectors: raw little-endian tensors, samples concatenated."""
    named = [("input", array) for array in proof.inputs], [("output", array) for array in proof.outputs]
    return {
        f"golden/parity_{kind}_{position}.bin": array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        for group in named
        for position, (kind, array) in enumerate(group)
    }


def assess(
    request: ConversionRequest,
    production: Interpreter,
    sets: SampleSets,
    *,
    float_model: bytes | None,
    acceptance: bytes | None,
    reported: SampleSet | None = None,
) -> Quality:
    """Score the model on the evaluation and acceptance samples, beside ``float_model`` where it came from one.

    Where a search has looked at some of the evaluation samples, figures come from the others, which are ``reported``.

    Raises:
        SampleError: samples or labels do not fit.
    """
    evaluation, confused, comparison, reference = None, None, None, None
    if sets.evaluation is not None:
        samples = sets.evaluation if reported is None else reported
        labels = _labels(request, samples, production)
        outputs = _predict(request, production, samples)
        task = read_as(request.task, request.roles)
        evaluation = score(request.metric, outputs, labels, task)
        confused = _confusion(request, outputs, labels, task)
        if task == "classification":
            reference = histograms(outputs if reported is None else _predict(request, production, sets.evaluation))
        if float_model is not None:
            before = _predict(request, LiteRtInterpreter(float_model), samples)
            comparison = compare(request.metric, before, outputs, labels, task=task)
    accepted = _accept(request, production, sets.acceptance, acceptance)
    return Quality(evaluation, confused, comparison, reference, accepted)


def _confusion(request: ConversionRequest, outputs: Array, labels: Array, task: Task) -> Confusion | None:
    if task == "classification":
        classes = int(np.prod(outputs.shape[1:]))
        return confusion(top1(outputs), labels, request.labels, classes=classes)
    return detection_confusion(outputs, labels, request.labels) if task == "detection" else None


def _labels(request: ConversionRequest, samples: SampleSet, interpreter: Interpreter) -> Array:
    labels = class_numbers(samples)
    answers = int(np.prod(interpreter.outputs[0].shape))
    check_labels(labels, answers, task=request.task, source=samples.source, roles=request.roles)
    return labels


def _predict(request: ConversionRequest, interpreter: Interpreter, samples: SampleSet) -> Array:
    inputs = model_inputs(samples, range(len(samples)), request.preprocessing, interpreter.inputs)
    return predict(interpreter, inputs, request.task, request.roles)


def _accept(
    request: ConversionRequest, production: Interpreter, samples: SampleSet | None, stored: bytes | None
) -> AcceptanceExamples | None:
    if samples is None or stored is None:
        return None
    metric: Metric = default_metric("classification")
    value = metric.function(_predict(request, production, samples), _labels(request, samples, production))
    return AcceptanceExamples(
        path="golden/acceptance.npz",
        sha256=sha256_hex(stored),
        samples=len(samples),
        metric=metric.name,
        value=value,
    )
