# SPDX-License-Identifier: Apache-2.0
"""Convert a model: read, probe, quantize, check for the board, prove, evaluate, pack. Nothing is written here."""

from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from converter.adapters.execution import measure_latency, predict, run_all
from converter.adapters.flatbuffer import read_facts
from converter.adapters.model_files import SourceModel, read_source
from converter.adapters.samples import (
    PictureSamples,
    SampleSet,
    canonical_order,
    class_numbers,
    model_inputs,
    open_samples,
    sample_set_sha256,
)
from converter.core.board_checks import check_board, check_source, needed_runtime, outdated_operators
from converter.core.canonical_npz import canonical_npz
from converter.core.card import model_card
from converter.core.graph import GraphFacts
from converter.core.operator_versions import is_older
from converter.core.parity_choice import (
    made_up_inputs,
    parity_count,
    production_tolerance,
    reference_tolerance,
    spread,
)
from converter.core.recipe import Recipe, default_recipe, recipe_sha256
from converter.core.request import ConversionRequest, check_class_names, check_request, runtime_requirement
from converter.core.scoring import Metric, check_labels, compare, default_metric, histograms, score
from converter.quantization import quantize
from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import ModelFailedError, SampleError, UnsupportedModelError
from edgefleet.contracts.evidence import ConversionEvidence, FloatComparison, Score
from edgefleet.contracts.manifest import (
    ACCEPTANCE_PATH,
    MODEL_CARD_PATH,
    AcceptanceExamples,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    ProfileReference,
    ReferenceHistograms,
    Tolerances,
    Tool,
)
from edgefleet.contracts.profile import Profile, compat_hash
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter
from edgefleet.runtimes.parity import difference
from edgefleet.runtimes.probe import probe_model

Array = npt.NDArray[Any]
MODEL_PATH = "model/model.tflite"
#: Stands for the recipe of a model that is taken as it is.
_NO_RECIPE_SHA256 = sha256_hex(canonical_json({"taken": "as it is"}))
_TFLM_NOTE = (
    "parity vectors come from LiteRT's reference kernels; microcontroller numerics are checked where firmware is built"
)


class Conversion(NamedTuple):
    """A bundle's bytes, its manifest, and what was measured."""

    bundle: bytes
    manifest: Manifest
    evidence: ConversionEvidence


@dataclass(frozen=True)
class _Built:
    """The model that goes into the bundle, and what it came from."""

    data: bytes
    facts: GraphFacts
    source: SourceModel
    source_is_float: bool
    recipe: Recipe | None = None
    conditioning: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sets:
    """The sample sets that were named."""

    calibration: SampleSet | None
    evaluation: SampleSet | None
    acceptance: SampleSet | None


@dataclass(frozen=True)
class _Proof:
    """Parity vectors and tolerances, measured."""

    inputs: list[Array]
    outputs: list[Array]
    tolerances: Tolerances


@dataclass(frozen=True)
class _Quality:
    """What the model scores, where there are samples to score it on."""

    evaluation: Score | None
    comparison: FloatComparison | None
    reference: ReferenceHistograms | None
    acceptance: AcceptanceExamples | None


def convert(request: ConversionRequest, *, now: datetime) -> Conversion:
    """Convert one model for one board.

    Raises:
        InputError: an argument or file cannot be used.
        RefusedError: the model, the samples or the board do not fit each other; the subclass says which.
    """
    check_request(request)
    source = read_source(request.model)
    _probe_source(source.data)
    source_facts = read_facts(source.data)
    check_source(source_facts)
    sets = _open_sets(request, source.data)
    built = _build(request, source, source_facts, sets.calibration)
    check_board(built.facts, request.profile)
    return _pack(request, built, sets, now)


def _probe_source(model: bytes) -> None:
    try:
        probe_model(model, kernels="reference")
    except UnsupportedModelError as error:
        if "custom op" in error.message:  # the buffer is sound, so that its operators can be named
            check_source(read_facts(model))
        raise


def _open_sets(request: ConversionRequest, model: bytes) -> _Sets:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    names = [spec.name for spec in interpreter.inputs]
    paths = (request.calibration, request.evaluation, request.acceptance)
    sets = _Sets(*(open_samples(path, names, request.labels) if path is not None else None for path in paths))
    for samples in (sets.calibration, sets.evaluation, sets.acceptance):
        if samples is not None:  # the first sample is checked before anything takes long
            next(model_inputs(samples, [0], request.preprocessing, interpreter.inputs))
    return sets


def _build(request: ConversionRequest, source: SourceModel, facts: GraphFacts, calibration: SampleSet | None) -> _Built:
    if facts.precision() != "float32":
        notes = tuple(
            f"{name} says a lower version than its types need; runtimes older than LiteRT may compute it wrongly"
            for name in outdated_operators(facts)
        )
        return _Built(source.data, facts, source, source_is_float=False, notes=notes)
    recipe = request.recipe or default_recipe(request.profile)
    if recipe.precision == "float32":
        return _Built(source.data, facts, source, source_is_float=True, recipe=recipe)
    quantized = quantize(source.data, recipe, calibration, request.preprocessing)
    _probe_quantized(quantized.data)
    return _Built(
        quantized.data,
        read_facts(quantized.data),
        source,
        source_is_float=True,
        recipe=recipe,
        conditioning=quantized.conditioning,
    )


def _probe_quantized(model: bytes) -> None:
    try:
        probe_model(model, kernels="reference")
    except (ModelFailedError, UnsupportedModelError) as error:
        raise ModelFailedError(
            f"quantized to int8, the model does not run: {error.message}",
            hint='keep it float with a recipe (precision = "float32"), or change the operator that is named',
        ) from error


def _pack(request: ConversionRequest, built: _Built, sets: _Sets, now: datetime) -> Conversion:
    production = LiteRtInterpreter(built.data, kernels=production_kernels(request.profile))
    check_class_names(request, production.outputs[0])
    proof = _prove(request, built, production, sets.calibration)
    members: dict[str, bytes] = {MODEL_PATH: built.data, **_vector_members(proof)}
    if sets.acceptance is not None:
        members[ACCEPTANCE_PATH] = acceptance_npz(sets.acceptance, [spec.name for spec in production.inputs])
    quality = _assess(request, built, production, sets, members.get(ACCEPTANCE_PATH))
    manifest = _manifest(request, built, sets, production, proof, quality, members)
    notes = (*built.notes, *_notes(request.profile))
    members[MODEL_CARD_PATH] = model_card(manifest, built.facts, _making(built), notes)
    manifest = msgspec.structs.replace(manifest, members=describe_members(members))
    bundle = pack(manifest, members)
    return Conversion(bundle, manifest, _evidence(manifest, built, bundle, quality, production, proof, notes, now))


def production_kernels(profile: Profile) -> Kernels:
    """Return the kernels that stand for the board's own on this machine."""
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


def _prove(
    request: ConversionRequest, built: _Built, production: LiteRtInterpreter, calibration: SampleSet | None
) -> _Proof:
    reference = LiteRtInterpreter(built.data, kernels="reference")
    sample_bytes = sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in reference.inputs)
    count = parity_count(sample_bytes, None if calibration is None else len(calibration))
    if calibration is None:
        chosen = [made_up_inputs(reference.inputs, number) for number in range(count)]
    else:
        order = canonical_order(calibration)
        picked = [order[place] for place in spread(count, len(order))]
        chosen = list(model_inputs(calibration, picked, request.preprocessing, reference.inputs))
    expected = run_all(reference, chosen)
    if not all(np.isfinite(output).all() for output in expected):
        raise ModelFailedError("the model answers its parity inputs with NaN or infinity", hint="correct the model")
    got = run_all(production, chosen)
    worst = max(difference(g, e) for g, e in zip(got, expected, strict=True))
    unit: Literal["lsb", "absolute"] = "lsb" if expected[0].dtype.kind in "iu" else "absolute"
    tolerances = Tolerances(
        unit=unit,
        reference=reference_tolerance(unit, max(float(np.abs(e).max()) for e in expected)),
        production=production_tolerance(worst, unit),
    )
    inputs = [np.stack([sample[position] for sample in chosen]) for position in range(len(reference.inputs))]
    return _Proof(inputs, expected, tolerances)


def _making(built: _Built) -> str:
    if built.recipe is None:
        return "the model was quantized already and is taken as it is"
    kept = f", conditioning {built.conditioning}" if built.conditioning else ""
    return f"precision {built.recipe.precision}{kept}"


def _vector_members(proof: _Proof) -> dict[str, bytes]:
    named = [("input", array) for array in proof.inputs], [("output", array) for array in proof.outputs]
    return {
        f"golden/parity_{kind}_{position}.bin": array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        for group in named
        for position, (kind, array) in enumerate(group)
    }


def _assess(
    request: ConversionRequest,
    built: _Built,
    production: LiteRtInterpreter,
    sets: _Sets,
    acceptance: bytes | None,
) -> _Quality:
    evaluation, comparison, reference = None, None, None
    if sets.evaluation is not None:
        labels = _labels(request, sets.evaluation, production)
        outputs = _predict(request, production, sets.evaluation)
        evaluation = score(request.metric, outputs, labels, request.task)
        reference = histograms(outputs) if request.task == "classification" else None
        if built.source_is_float and built.data != built.source.data:
            before = _predict(request, LiteRtInterpreter(built.source.data), sets.evaluation)
            comparison = compare(request.metric, before, outputs, labels)
    accepted = _accept(request, production, sets.acceptance, acceptance)
    return _Quality(evaluation, comparison, reference, accepted)


def _labels(request: ConversionRequest, samples: SampleSet, interpreter: LiteRtInterpreter) -> Array:
    labels = class_numbers(samples)
    check_labels(labels, int(np.prod(interpreter.outputs[0].shape)), task=request.task, source=samples.source)
    return labels


def _predict(request: ConversionRequest, interpreter: LiteRtInterpreter, samples: SampleSet) -> Array:
    inputs = model_inputs(samples, range(len(samples)), request.preprocessing, interpreter.inputs)
    return predict(interpreter, inputs, request.task)


def _accept(
    request: ConversionRequest, production: LiteRtInterpreter, samples: SampleSet | None, stored: bytes | None
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


def _manifest(
    request: ConversionRequest,
    built: _Built,
    sets: _Sets,
    production: LiteRtInterpreter,
    proof: _Proof,
    quality: _Quality,
    members: dict[str, bytes],
) -> Manifest:
    profile = request.profile
    paths = sorted(members)
    return Manifest(
        format_version=1,
        name=request.name,
        version=request.version,
        task=request.task,
        metric=request.metric.name,
        precision=built.facts.precision(),  # type: ignore[arg-type]  # one of the manifest's precisions, by check_board
        profile=ProfileReference(id=profile.id, compat_hash=compat_hash(profile)),
        runtime=runtime_requirement(
            profile, proved_with=installed("ai-edge-litert"), oldest_tflite=needed_runtime(built.facts)
        ),
        interface=Interface(inputs=production.inputs, outputs=production.outputs, labels=request.labels),
        preprocessing=request.preprocessing,
        tolerances=proof.tolerances,
        budgets=profile.budgets,
        parity=ParityVectors(
            samples=len(proof.inputs[0]),
            inputs=tuple(path for path in paths if path.startswith("golden/parity_input_")),
            outputs=tuple(path for path in paths if path.startswith("golden/parity_output_")),
        ),
        acceptance=quality.acceptance,
        reference=quality.reference,
        model=MODEL_PATH,
        members=describe_members(members),
        lineage=_lineage(built, sets),
    )


def _lineage(built: _Built, sets: _Sets) -> Lineage:
    tools = ["ai-edge-litert", "edgefleet", "numpy"]
    if built.recipe is not None and built.recipe.precision == "int8":
        tools.append("ai-edge-quantizer")
    if any(isinstance(samples, PictureSamples) for samples in (sets.calibration, sets.evaluation, sets.acceptance)):
        tools.append("pillow")
    return Lineage(
        source_sha256=built.source.sha256,
        recipe_sha256=_NO_RECIPE_SHA256 if built.recipe is None else recipe_sha256(built.recipe),
        calibration_sha256=None if sets.calibration is None else sample_set_sha256(sets.calibration),
        evaluation_sha256=None if sets.evaluation is None else sample_set_sha256(sets.evaluation),
        tools=tuple(Tool(name=name, version=installed(name)) for name in sorted(tools)),
    )


def _notes(profile: Profile) -> tuple[str, ...]:
    proved_with = installed("ai-edge-litert")
    if profile.runtime.kind == "tflm":
        return (_TFLM_NOTE,)
    if profile.runtime.kind == "litert" and is_older(profile.runtime.version, proved_with):
        return (f"proved with LiteRT {proved_with}; the board has {profile.runtime.version}",)
    return ()


def _evidence(
    manifest: Manifest,
    built: _Built,
    bundle: bytes,
    quality: _Quality,
    production: LiteRtInterpreter,
    proof: _Proof,
    notes: tuple[str, ...],
    now: datetime,
) -> ConversionEvidence:
    accepted = quality.acceptance
    return ConversionEvidence(
        bundle_sha256=sha256_hex(bundle),
        name=manifest.name,
        version=manifest.version,
        profile=manifest.profile.id,
        created_at=now.isoformat(timespec="seconds"),
        bundle_bytes=len(bundle),
        model_bytes=len(built.data),
        float_model_bytes=len(built.source.data) if built.source_is_float else None,
        evaluation=quality.evaluation,
        acceptance=None
        if accepted is None
        else Score(metric=accepted.metric, value=accepted.value, samples=accepted.samples),
        comparison=quality.comparison,
        latency=measure_latency(production, [tensor[0] for tensor in proof.inputs]),
        warnings=notes,
    )
