# SPDX-License-Identifier: Apache-2.0
"""Prove a model and score it: parity vectors with measured tolerances, evaluation, acceptance examples."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.running.execution import predict, run_all
from converter.adapters.samples.sets import (
    FileSamples,
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
    reference_tolerance,
    spread,
)
from converter.core.reports.confusion import confusion, detection_confusion
from converter.core.request import ConversionRequest
from converter.core.scoring import (
    CONFIDENCE_BINS,
    Metric,
    check_labels,
    compare,
    default_metric,
    histograms,
    score,
    top1,
)
from converter.core.steadiness import SWAY_OF_FLOATS, SWAY_OF_INTEGERS, production_tolerance, swayed, unclear
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
    """Parity vectors and tolerances, and the interpreter that they come from: the same on every processor."""

    inputs: list[Array]
    outputs: list[Array]
    tolerances: Tolerances
    reference: Interpreter = field(repr=False)


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

    Files of a folder stand in the order of their digests, whatever they are called. Arrays keep their order: a policy
    pins the hash of the file that they come from.

    Raises:
        SampleError: there are no labels, or the samples differ in shape and cannot be one array.
    """
    order = canonical_order(samples) if isinstance(samples, FileSamples) else list(range(len(samples)))
    labels = class_numbers(samples)[order]
    raw = [samples.raw(number) for number in order]
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
    """Choose parity inputs, answer them with the reference, and tell how far the board's own runtime may differ.

    The reference is LiteRT's reference kernels; for a microcontroller it is TFLM, which rounds by rules of its own.
    Production kernels differ from processor to processor, so that the reference tells their tolerance, by what it
    makes of inputs that are moved a little; they are asked whether they keep it.

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
    in_floats = read_facts(model).precision() in ("float32", "float16")
    allowed = reference_tolerance(unit, max(float(np.abs(e).max()) for e in expected))
    tolerances = Tolerances(
        unit=unit,
        reference=allowed,
        production=production_tolerance(
            unit,
            swayed_by=0.0 if micro else _swayed_by(model, chosen, expected, request.roles, in_floats=in_floats),
            measured=worst,
            least=max(allowed, _elsewhere(expected, request.roles, in_floats=in_floats)),
        ),
    )
    inputs = [np.stack([sample[position] for sample in chosen]) for position in range(len(reference.inputs))]
    return Proof(inputs, expected, tolerances, reference)


def _swayed_by(
    model: bytes,
    chosen: list[list[Array]],
    expected: list[Array],
    roles: tuple[DetectionRole, ...],
    *,
    in_floats: bool,
) -> float:
    """Return the largest difference that moving the parity inputs a little makes; other rounding makes hardly more."""
    reference = LiteRtInterpreter(model, kernels="reference")  # a new one, as the other's state has moved on
    sway = SWAY_OF_FLOATS if in_floats else SWAY_OF_INTEGERS
    moved = [swayed(sample, reference.inputs, number, sway) for number, sample in enumerate(chosen)]
    differences = [difference(g, e) for g, e in zip(run_all(reference, moved, roles), expected, strict=True)]
    return max((apart for apart in differences if math.isfinite(apart)), default=0.0)


def _elsewhere(expected: list[Array], roles: tuple[DetectionRole, ...], *, in_floats: bool) -> float:
    """Return how far the production kernels of another processor may lie from the reference, whatever the inputs are.

    One step of an integer inside can bring a detector's rows into another order, or another class: all that its outputs
    span. Float answers of integers inside move by such steps.
    """
    span = max(float(np.ptp(output.astype(np.float64))) for output in expected)
    if {"classes", "count"} & set(roles):
        return span
    answers_in_floats = any(output.dtype.kind == "f" for output in expected)
    return _STEPS * span if answers_in_floats and not in_floats else 0.0


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
    reference: Interpreter,
    float_model: bytes | None,
    acceptance: bytes | None,
    reported: SampleSet | None = None,
) -> Quality:
    """Score the model on the evaluation and acceptance samples, beside ``float_model`` where it came from one.

    Where a search has looked at some of the evaluation samples, figures come from the others, which are ``reported``.
    What goes into the bundle (reference histograms, the acceptance value) is the same on every processor: where the
    board's runtime is in doubt between two answers, the ``reference`` decides.

    Raises:
        SampleError: samples or labels do not fit.
    """
    evaluation, confused, comparison, counted = None, None, None, None
    if sets.evaluation is not None:
        samples = sets.evaluation if reported is None else reported
        labels = _labels(request, samples, production)
        outputs = _predict(request, production, samples)
        task = read_as(request.task, request.roles)
        evaluation = score(request.metric, outputs, labels, task)
        confused = _confusion(request, outputs, labels, task)
        if task == "classification":
            every = outputs if reported is None else _predict(request, production, sets.evaluation)
            counted = histograms(_steady(request, every, sets.evaluation, reference, bins=CONFIDENCE_BINS))
        if float_model is not None:
            before = _predict(request, LiteRtInterpreter(float_model), samples)
            comparison = compare(request.metric, before, outputs, labels, task=task)
    accepted = _accept(request, production, sets.acceptance, acceptance, reference)
    return Quality(evaluation, confused, comparison, counted, accepted)


def _steady(
    request: ConversionRequest, outputs: Array, samples: SampleSet, reference: Interpreter, *, bins: int = 0
) -> Array:
    """Return the outputs with the reference's wherever another processor's kernels may answer otherwise."""
    doubtful = unclear(outputs, reference.outputs[0].scale or 0.0, bins=bins)
    if not doubtful:
        return outputs
    inputs = model_inputs(samples, doubtful, request.preprocessing, reference.inputs)
    steady = outputs.copy()
    steady[doubtful] = predict(reference, inputs, request.task, request.roles)
    return steady


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
    request: ConversionRequest,
    production: Interpreter,
    samples: SampleSet | None,
    stored: bytes | None,
    reference: Interpreter,
) -> AcceptanceExamples | None:
    if samples is None or stored is None:
        return None
    metric: Metric = default_metric("classification")
    labels = _labels(request, samples, production)
    outputs = _steady(request, _predict(request, production, samples), samples, reference)
    value = metric.function(outputs, labels)
    return AcceptanceExamples(
        path="golden/acceptance.npz",
        sha256=sha256_hex(stored),
        samples=len(samples),
        metric=metric.name,
        value=value,
    )
