# SPDX-License-Identifier: Apache-2.0
"""Convert a model: read, probe, quantize, check for the board, prove, evaluate, pack. Nothing is written here."""

import platform
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed
from typing import Any, NamedTuple

import msgspec
import numpy.typing as npt

from converter.adapters.execution import measure_latency
from converter.adapters.flatbuffer import read_facts
from converter.adapters.model_files import SourceModel, read_source
from converter.adapters.samples import (
    PictureSamples,
    SampleSet,
    model_inputs,
    open_samples,
    sample_set_sha256,
)
from converter.core.board_checks import (
    check_board,
    check_latency,
    check_operators,
    check_source,
    needed_runtime,
    outdated_operators,
    precision_notes,
)
from converter.core.card import model_card
from converter.core.graph import GraphFacts
from converter.core.operator_versions import is_older
from converter.core.recipe import Recipe, default_recipe, recipe_sha256
from converter.core.request import (
    ConversionRequest,
    check_class_names,
    check_preprocessing,
    check_request,
    runtime_requirement,
)
from converter.proof import (
    Proof,
    Quality,
    SampleSets,
    acceptance_npz,
    assess,
    production_kernels,
    prove,
    vector_members,
)
from converter.quantization import quantize
from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import ModelFailedError, UnsupportedModelError
from edgefleet.contracts.evidence import ConversionEvidence, Latency, Score
from edgefleet.contracts.manifest import (
    ACCEPTANCE_PATH,
    MODEL_CARD_PATH,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    ProfileReference,
    Tool,
)
from edgefleet.contracts.profile import Profile, compat_hash
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.probe import probe_model

Array = npt.NDArray[Any]
MODEL_PATH = "model/model.tflite"
#: Stands for the recipe of a model that is taken as it is.
_NO_RECIPE_SHA256 = sha256_hex(canonical_json({"taken": "as it is"}))
#: What LiteRT says of operators that it does not have, TensorFlow's own ("Flex") among them.
_CUSTOM_OPERATOR = ("custom op", "Regular TensorFlow ops")
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
    check_operators(source_facts, request.profile)  # quantizing removes none, and takes long
    sets = _open_sets(request, source.data)
    built = _build(request, source, source_facts, sets.calibration)
    check_board(built.facts, request.profile)
    return _pack(request, built, sets, now)


def _probe_source(model: bytes) -> None:
    try:
        probe_model(model, kernels="reference")
    except UnsupportedModelError as error:
        if any(
            said in error.message for said in _CUSTOM_OPERATOR
        ):  # the buffer is sound, so that its operators can be named
            check_source(read_facts(model))
        raise


def _open_sets(request: ConversionRequest, model: bytes) -> SampleSets:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    check_preprocessing(request.preprocessing, interpreter.inputs)
    names = [spec.name for spec in interpreter.inputs]
    paths = (request.calibration, request.evaluation, request.acceptance)
    sets = SampleSets(*(open_samples(path, names, request.labels) if path is not None else None for path in paths))
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


def _pack(request: ConversionRequest, built: _Built, sets: SampleSets, now: datetime) -> Conversion:
    production = LiteRtInterpreter(built.data, kernels=production_kernels(request.profile))
    check_class_names(request, production.outputs[0])
    proof = prove(request, built.data, production, sets.calibration)
    latency = measure_latency(production, [tensor[0] for tensor in proof.inputs])
    check_latency(latency, request.profile, architecture=platform.machine())
    members: dict[str, bytes] = {MODEL_PATH: built.data, **vector_members(proof)}
    if sets.acceptance is not None:
        members[ACCEPTANCE_PATH] = acceptance_npz(sets.acceptance, [spec.name for spec in production.inputs])
    quality = assess(
        request,
        production,
        sets,
        float_model=built.source.data if built.source_is_float and built.data != built.source.data else None,
        acceptance=members.get(ACCEPTANCE_PATH),
    )
    manifest = _manifest(request, built, sets, production, proof, quality, members)
    notes = (*built.notes, *precision_notes(built.facts), *_notes(request.profile))
    members[MODEL_CARD_PATH] = model_card(manifest, built.facts, _making(built), notes)
    manifest = msgspec.structs.replace(manifest, members=describe_members(members))
    bundle = pack(manifest, members)
    return Conversion(bundle, manifest, _evidence(manifest, built, bundle, quality, latency, notes, now))


def _making(built: _Built) -> str:
    if built.recipe is None:
        return "the model was quantized already and is taken as it is"
    kept = f", conditioning {built.conditioning}" if built.conditioning else ""
    return f"precision {built.recipe.precision}{kept}"


def _manifest(
    request: ConversionRequest,
    built: _Built,
    sets: SampleSets,
    production: LiteRtInterpreter,
    proof: Proof,
    quality: Quality,
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


def _lineage(built: _Built, sets: SampleSets) -> Lineage:
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
    quality: Quality,
    latency: Latency,
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
        latency=latency,
        warnings=notes,
    )
