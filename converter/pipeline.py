# SPDX-License-Identifier: Apache-2.0
"""Convert a model: read, probe, quantize, check for the board, prove, evaluate, pack. Nothing is written here."""

import platform
import time
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version as installed
from typing import NamedTuple

import msgspec

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.flatbuffers.soundness import check_shapes
from converter.adapters.imports.model_files import read_source
from converter.adapters.running.execution import measure_latency
from converter.adapters.samples.sets import (
    PictureSamples,
    canonical_order,
    model_inputs,
    open_samples,
    sample_set_sha256,
)
from converter.core.board.checks import (
    check_latency,
    check_operators,
    check_source,
    needed_runtime,
    precision_notes,
)
from converter.core.board.operator_versions import is_older
from converter.core.parity_choice import spread
from converter.core.recipe import recipe_json, recipe_sha256
from converter.core.reports.card import model_card
from converter.core.request import (
    ConversionRequest,
    check_class_names,
    check_preprocessing,
    check_request,
    runtime_requirement,
)
from converter.explain import explain
from converter.making import MadeModel, make_model
from converter.preprocessing_check import better_preprocessing
from converter.proof import (
    Proof,
    Quality,
    SampleSets,
    acceptance_npz,
    assess,
    host_kernels,
    prove,
    vector_members,
)
from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import InputError, UnsupportedModelError
from edgefleet.contracts.evidence import ConversionEvidence, Latency, LayerError, PredictedLatency, Score
from edgefleet.contracts.manifest import (
    ACCEPTANCE_PATH,
    MODEL_CARD_PATH,
    RECIPE_PATH,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    ProfileReference,
    Tool,
)
from edgefleet.contracts.profile import Profile, compat_hash
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.oracle import check_runs_right, open_oracle, oracle_tool
from edgefleet.runtimes.probe import probe_model

MODEL_PATH = "model/model.tflite"
#: Stands for the recipe of a model that is taken as it is.
_NO_RECIPE_SHA256 = sha256_hex(canonical_json({"taken": "as it is"}))
#: How many samples ``--explain`` compares layers on.
_EXPLAINED = 32
#: What LiteRT says of operators that it does not have, TensorFlow's own ("Flex") among them.
_CUSTOM_OPERATOR = ("custom op", "Regular TensorFlow ops")


class Conversion(NamedTuple):
    """A bundle's bytes, its manifest, and what was measured."""

    bundle: bytes
    manifest: Manifest
    evidence: ConversionEvidence


def convert(request: ConversionRequest, *, now: datetime, clock: Callable[[], float] = time.monotonic) -> Conversion:
    """Convert one model for one board. ``now`` dates the evidence, ``clock`` (seconds) bounds a search.

    Raises:
        InputError: an argument or file cannot be used.
        RefusedError: the model, the samples or the board do not fit each other; the subclass says which.
    """
    check_request(request)
    source = read_source(request.model)
    _probe_source(source.data)
    check_shapes(source.data)
    source_facts = read_facts(source.data)
    check_source(source_facts)
    check_operators(source_facts, request.profile)  # quantizing removes none, and takes long
    sets = _open_sets(request, source.data)
    made = make_model(request, source, source_facts, sets, clock)
    return _pack(request, made, sets, now)


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


def _pack(request: ConversionRequest, made: MadeModel, sets: SampleSets, now: datetime) -> Conversion:
    production = open_oracle(made.runnable, kind=request.profile.runtime.kind)
    check_class_names(request, production.outputs[0])
    proof = prove(request, made.runnable, production, sets.calibration)
    _check_runtime(request, made, proof)
    timed = LiteRtInterpreter(made.runnable, kernels=host_kernels(request.profile))
    latency = measure_latency(timed, [tensor[0] for tensor in proof.inputs])
    check_latency(latency, request.profile, architecture=platform.machine())
    members: dict[str, bytes] = {MODEL_PATH: made.data, **vector_members(proof)}
    if made.recipe is not None:
        members[RECIPE_PATH] = recipe_json(made.recipe)
    if sets.acceptance is not None:
        members[ACCEPTANCE_PATH] = acceptance_npz(sets.acceptance, [spec.name for spec in production.inputs])
    quality = assess(
        request,
        production,
        sets,
        float_model=made.source.data if made.source_is_float and made.data != made.source.data else None,
        acceptance=members.get(ACCEPTANCE_PATH),
        reported=made.reported,
    )
    manifest = _manifest(request, made, sets, production, proof, quality, members)
    notes = (*made.notes, *precision_notes(made.facts), *_notes(request.profile))
    members[MODEL_CARD_PATH] = model_card(manifest, made.facts, _making(made), notes)
    manifest = msgspec.structs.replace(manifest, members=describe_members(members))
    bundle = pack(manifest, members)
    layers = _layers(request, made, sets) if request.explain else ()
    notes += _advice(request, made, sets)
    return Conversion(bundle, manifest, _evidence(manifest, made, bundle, quality, latency, layers, notes, now))


def _advice(request: ConversionRequest, made: MadeModel, sets: SampleSets) -> tuple[str, ...]:
    """Return what belongs into the evidence only, for it comes from this machine's production kernels."""
    if sets.evaluation is None or not made.source_is_float:
        return ()
    found = better_preprocessing(made.source.data, sets.evaluation, request.preprocessing, request.task)
    return () if found is None else (found,)


def _check_runtime(request: ConversionRequest, made: MadeModel, proof: Proof) -> None:
    """Let the board's own runtime answer beside LiteRT's reference kernels: it may be wrong in ways that no rule knows.

    Raises:
        ModelFailedError: its answers differ by more than rounding does.
    """
    kind = request.profile.runtime.kind
    if kind != "litert":
        samples = [[tensor[number] for tensor in proof.inputs] for number in range(len(proof.inputs[0]))]
        check_runs_right(made.runnable, kind=kind, task=request.task, inputs=samples)


def _layers(request: ConversionRequest, made: MadeModel, sets: SampleSets) -> tuple[LayerError, ...]:
    """Compare the model with its float source, layer by layer.

    Raises:
        InputError: there is no float source, or there are no samples.
    """
    if not made.source_is_float:
        raise InputError(
            "--explain compares layers with the float model's, and the model is quantized already",
            hint="give the float model, or leave --explain out",
        )
    samples = sets.evaluation if sets.evaluation is not None else sets.calibration
    if samples is None:
        raise InputError(
            "--explain compares layers on samples, and there are none",
            hint="name some with --calibration or --evaluation",
        )
    specs = LiteRtInterpreter(made.source.data, kernels="reference").inputs
    order = canonical_order(samples)
    chosen = [order[place] for place in spread(min(_EXPLAINED, len(order)), len(order))]
    return explain(made.source.data, made.named, model_inputs(samples, chosen, request.preprocessing, specs))


def _making(made: MadeModel) -> str:
    if made.recipe is None:
        return "the model was quantized already and is taken as it is"
    kept = f", conditioning {made.conditioning}" if made.conditioning else ""
    return f"precision {made.recipe.precision}{kept}"


def _manifest(
    request: ConversionRequest,
    made: MadeModel,
    sets: SampleSets,
    production: Interpreter,
    proof: Proof,
    quality: Quality,
    members: dict[str, bytes],
) -> Manifest:
    profile = request.profile
    paths = sorted(members)
    runtime = runtime_requirement(
        profile, proved_with=installed("ai-edge-litert"), oldest_tflite=needed_runtime(made.facts)
    )
    return Manifest(
        format_version=1,
        name=request.name,
        version=request.version,
        task=request.task,
        metric=request.metric.name,
        precision=made.facts.precision(),  # type: ignore[arg-type]  # one of the manifest's precisions, by check_board
        execution="proved" if made.accelerator is None else "compiled-not-run",
        profile=ProfileReference(id=profile.id, compat_hash=compat_hash(profile)),
        runtime=msgspec.structs.replace(runtime, accelerator=made.accelerator),
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
        arena=made.cost.arena,
        model=MODEL_PATH,
        members=describe_members(members),
        lineage=_lineage(made, sets, oracle_tool(profile.runtime.kind)),
    )


def _lineage(made: MadeModel, sets: SampleSets, oracle: Tool) -> Lineage:
    tools = ["ai-edge-litert", "edgefleet", "numpy"]
    if made.recipe is not None and made.recipe.precision != "float32":
        tools.append("ai-edge-quantizer")
    if made.accelerator is not None:
        tools.append("ethos-u-vela")
    if any(isinstance(samples, PictureSamples) for samples in (sets.calibration, sets.evaluation, sets.acceptance)):
        tools.append("pillow")
    return Lineage(
        source_sha256=made.source.sha256,
        recipe_sha256=_NO_RECIPE_SHA256 if made.recipe is None else recipe_sha256(made.recipe),
        rewrites=made.rewrites,
        calibration_sha256=None if sets.calibration is None else sample_set_sha256(sets.calibration),
        evaluation_sha256=None if sets.evaluation is None else sample_set_sha256(sets.evaluation),
        tools=tuple(sorted({oracle, *(Tool(name=name, version=installed(name)) for name in tools)}, key=_tool_name)),
    )


def _tool_name(tool: Tool) -> str:
    return tool.name


def _notes(profile: Profile) -> tuple[str, ...]:
    proved_with = installed("ai-edge-litert")
    if profile.runtime.kind == "litert" and is_older(profile.runtime.version, proved_with):
        return (f"proved with LiteRT {proved_with}; the board has {profile.runtime.version}",)
    return ()


def _evidence(
    manifest: Manifest,
    made: MadeModel,
    bundle: bytes,
    quality: Quality,
    latency: Latency,
    layers: tuple[LayerError, ...],
    notes: tuple[str, ...],
    now: datetime,
) -> ConversionEvidence:
    accepted, predicted_us = quality.acceptance, made.cost.latency_us
    return ConversionEvidence(
        bundle_sha256=sha256_hex(bundle),
        name=manifest.name,
        version=manifest.version,
        profile=manifest.profile.id,
        created_at=now.isoformat(timespec="seconds"),
        bundle_bytes=len(bundle),
        model_bytes=len(made.data),
        float_model_bytes=len(made.source.data) if made.source_is_float else None,
        arena=manifest.arena,
        evaluation=quality.evaluation,
        confusion=quality.confusion,
        acceptance=None
        if accepted is None
        else Score(metric=accepted.metric, value=accepted.value, samples=accepted.samples),
        comparison=quality.comparison,
        latency=latency,
        predicted_latency=None
        if predicted_us is None
        else PredictedLatency(microseconds=predicted_us, method=made.cost.method),
        candidates=made.candidates,
        layers=layers,
        warnings=notes,
    )
