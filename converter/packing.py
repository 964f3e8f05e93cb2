# SPDX-License-Identifier: Apache-2.0
"""Pack a model that is proved into a bundle: its manifest, its card, and the evidence that stands beside it."""

from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed
from typing import NamedTuple

import msgspec

from converter.adapters.samples.sets import PictureSamples, sample_set_sha256
from converter.core.board.checks import needed_runtime, precision_notes
from converter.core.board.operator_versions import is_older
from converter.core.recipe import Recipe, recipe_json, recipe_sha256
from converter.core.reports.card import model_card
from converter.core.request import ConversionRequest, runtime_requirement
from converter.making import MadeModel
from converter.proof import Proof, Quality, SampleSets, vector_members
from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.canonical import canonical_json, sha256_hex
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
from edgefleet.runtimes.oracle import oracle_tool

MODEL_PATH = "model/model.tflite"
#: Stands for the recipe of a model that is taken as it is.
_NO_RECIPE_SHA256 = sha256_hex(canonical_json({"taken": "as it is"}))
_PILLOW = "pillow"


@dataclass(frozen=True)
class Proved:
    """A model that the board runs right, with what shows it: vectors, scores, figures of this machine."""

    made: MadeModel
    production: Interpreter
    proof: Proof
    quality: Quality
    acceptance: bytes | None
    latency: Latency
    layers: tuple[LayerError, ...] = ()
    advice: tuple[str, ...] = ()


class Conversion(NamedTuple):
    """A bundle's bytes, its manifest, what was measured, and the recipe that made it from a float model."""

    bundle: bytes
    manifest: Manifest
    evidence: ConversionEvidence
    recipe: Recipe | None


def pack_bundle(
    request: ConversionRequest, proved: Proved, sets: SampleSets, *, now: datetime, recorded: Manifest | None = None
) -> Conversion:
    """Make the bundle and its evidence, dated ``now``.

    ``recorded`` is the manifest that a bundle had before: where no evaluation set is at hand, what it says of that set
    is taken over.
    """
    made = proved.made
    members = {MODEL_PATH: made.data, **vector_members(proved.proof)}
    if made.recipe is not None:
        members[RECIPE_PATH] = recipe_json(made.recipe)
    if proved.acceptance is not None:
        members[ACCEPTANCE_PATH] = proved.acceptance
    manifest = _manifest(request, proved, sets, members)
    if recorded is not None and sets.evaluation is None:
        manifest = _with_recorded_evaluation(manifest, recorded)
    notes = (*made.notes, *precision_notes(made.facts), *_notes(request.profile))
    members[MODEL_CARD_PATH] = model_card(manifest, made.facts, _making(made), notes)
    manifest = msgspec.structs.replace(manifest, members=describe_members(members))
    bundle = pack(manifest, members)
    return Conversion(bundle, manifest, _evidence(manifest, proved, bundle, notes, now), made.recipe)


def _manifest(request: ConversionRequest, proved: Proved, sets: SampleSets, members: dict[str, bytes]) -> Manifest:
    profile, made, production = request.profile, proved.made, proved.production
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
        interface=Interface(
            inputs=production.inputs, outputs=production.outputs, labels=request.labels, roles=request.roles
        ),
        preprocessing=request.preprocessing,
        tolerances=proved.proof.tolerances,
        budgets=profile.budgets,
        parity=ParityVectors(
            samples=len(proved.proof.inputs[0]),
            inputs=tuple(path for path in members if path.startswith("golden/parity_input_")),
            outputs=tuple(path for path in members if path.startswith("golden/parity_output_")),
        ),
        acceptance=proved.quality.acceptance,
        reference=proved.quality.reference,
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
        tools.append(_PILLOW)
    return Lineage(
        source_sha256=made.source.sha256,
        recipe_sha256=_NO_RECIPE_SHA256 if made.recipe is None else recipe_sha256(made.recipe),
        rewrites=made.rewrites,
        calibration_sha256=None if sets.calibration is None else sample_set_sha256(sets.calibration),
        evaluation_sha256=None if sets.evaluation is None else sample_set_sha256(sets.evaluation),
        tools=_sorted({oracle, *(Tool(name=name, version=installed(name)) for name in tools)}),
    )


def _sorted(tools: set[Tool]) -> tuple[Tool, ...]:
    return tuple(sorted(tools, key=lambda tool: tool.name))


def _with_recorded_evaluation(manifest: Manifest, recorded: Manifest) -> Manifest:
    """Return the manifest with what another says of its evaluation set: hash, histograms, what read its pictures."""
    lineage = recorded.lineage
    read_by = {tool for tool in lineage.tools if tool.name == _PILLOW}
    merged = msgspec.structs.replace(
        manifest.lineage,
        evaluation_sha256=lineage.evaluation_sha256,
        tools=_sorted({*(tool for tool in manifest.lineage.tools if tool.name != _PILLOW), *read_by}),
    )
    return msgspec.structs.replace(manifest, reference=recorded.reference, lineage=merged)


def _making(made: MadeModel) -> str:
    if made.recipe is None or made.quantized is None:
        return "the model was quantized already and is taken as it is"
    kept = f", conditioning {made.quantized.conditioning}" if made.quantized.conditioning else ""
    return f"precision {made.recipe.precision}{kept}"


def _notes(profile: Profile) -> tuple[str, ...]:
    proved_with = installed("ai-edge-litert")
    if profile.runtime.kind == "litert" and is_older(profile.runtime.version, proved_with):
        return (f"proved with LiteRT {proved_with}; the board has {profile.runtime.version}",)
    return ()


def _evidence(
    manifest: Manifest, proved: Proved, bundle: bytes, notes: tuple[str, ...], now: datetime
) -> ConversionEvidence:
    made, quality = proved.made, proved.quality
    accepted, predicted_us = quality.acceptance, made.cost.latency_us
    return ConversionEvidence(
        bundle_sha256=sha256_hex(bundle),
        name=manifest.name,
        version=manifest.version,
        profile=manifest.profile.id,
        created_at=now.isoformat(timespec="seconds"),
        bundle_bytes=len(bundle),
        model_bytes=len(made.data),
        float_model_bytes=None if made.quantized is None else len(made.source.data),
        arena=manifest.arena,
        evaluation=quality.evaluation,
        confusion=quality.confusion,
        acceptance=None
        if accepted is None
        else Score(metric=accepted.metric, value=accepted.value, samples=accepted.samples),
        comparison=quality.comparison,
        latency=proved.latency,
        predicted_latency=None
        if predicted_us is None
        else PredictedLatency(microseconds=predicted_us, method=made.cost.method),
        candidates=made.candidates,
        layers=proved.layers,
        warnings=(*notes, *made.remarks, *proved.advice),
    )
