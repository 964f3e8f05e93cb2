# SPDX-License-Identifier: Apache-2.0
"""Convert a model: read, probe, make, prove, evaluate, pack. Nothing is written here."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from converter.adapters.flatbuffers.detector_outputs import settled_roles
from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.flatbuffers.soundness import check_sound
from converter.adapters.imports.model_files import read_source
from converter.adapters.running.execution import measure_latency
from converter.adapters.samples.in_memory import HeldSamples, open_held
from converter.adapters.samples.sets import SampleSet, canonical_order, model_inputs, open_samples
from converter.core.board.checks import check_latency, check_operators, check_source
from converter.core.parity_choice import spread
from converter.core.request import ConversionRequest, check_class_names, check_preprocessing, check_request
from converter.explain import explain
from converter.making import MadeModel, Say, make_model
from converter.packing import Conversion, Proved, pack_bundle
from converter.preprocessing_check import better_preprocessing
from converter.proof import Proof, SampleSets, acceptance_npz, assess, host_kernels, prove
from edgefleet.contracts.errors import InputError, UnsupportedModelError
from edgefleet.contracts.evidence import LayerError
from edgefleet.contracts.manifest import Manifest, TensorSpec
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.oracle import check_runs_right, open_oracle
from edgefleet.runtimes.probe import probe_model

#: Samples in memory, by the path that stands for them in a request.
Held = Mapping[Path, HeldSamples]
NOTHING_HELD: Held = MappingProxyType({})
#: How many samples ``--explain`` compares layers on.
_EXPLAINED = 32
#: What LiteRT says of operators that it does not have, TensorFlow's own ("Flex") among them.
_CUSTOM_OPERATOR = ("custom op", "Regular TensorFlow ops")


def convert(
    request: ConversionRequest,
    *,
    now: datetime,
    clock: Callable[[], float] = time.monotonic,
    say: Say = lambda _: None,
    held: Held = NOTHING_HELD,
    recorded: Manifest | None = None,
) -> Conversion:
    """Convert one model for one board.

    ``now`` dates the evidence; ``clock`` (seconds) bounds a search, and ``say`` is told its candidates. Sample sets of
    the request that are ``held`` in memory are not read from their paths. ``recorded`` is the manifest of a bundle
    that is made again: what it says of an evaluation set that is not at hand is taken over.

    Raises:
        InputError: an argument or file cannot be used.
        RefusedError: the model, the samples or the board do not fit each other; the subclass says which.
    """
    check_request(request)
    source = read_source(request.model)
    _probe_source(source.data)
    check_sound(source.data)
    source_facts = read_facts(source.data)
    check_source(source_facts)
    check_operators(source_facts, request.profile)  # quantizing removes none, and takes long
    inputs, outputs = _interface(source.data)
    request = _with_roles(request, source.data, outputs)
    sets = _open_sets(request, inputs, held)
    made = make_model(request, source, source_facts, sets, clock=clock, say=say)
    return pack_bundle(request, _prove(request, made, sets), sets, now=now, recorded=recorded)


def open_set(path: Path, held: Held, input_names: list[str], class_names: tuple[str, ...]) -> SampleSet:
    """Open a sample set: the one that is held in memory for this path, or what lies there.

    Raises:
        FileMissingError, InputError, SampleError: see :func:`converter.adapters.samples.sets.open_samples`.
    """
    if path in held:
        return open_held(held[path], path.name, input_names)
    return open_samples(path, input_names, class_names)


def _probe_source(model: bytes) -> None:
    try:
        probe_model(model, kernels="reference")
    except UnsupportedModelError as error:
        if any(said in error.message for said in _CUSTOM_OPERATOR):
            check_source(read_facts(model))  # the buffer is sound, so that its operators can be named
        raise


def _interface(model: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    return interpreter.inputs, interpreter.outputs


def _with_roles(request: ConversionRequest, model: bytes, outputs: Sequence[TensorSpec]) -> ConversionRequest:
    """Return the request with what each output of a detector is, told by its user or by the model."""
    own_metric = ":" in request.metric.name
    return replace(request, roles=settled_roles(model, outputs, request.task, request.roles, own_metric=own_metric))


def _open_sets(request: ConversionRequest, inputs: Sequence[TensorSpec], held: Held) -> SampleSets:
    check_preprocessing(request.preprocessing, inputs)
    names = [spec.name for spec in inputs]
    paths = (request.calibration, request.evaluation, request.acceptance)
    sets = SampleSets(*(None if path is None else open_set(path, held, names, request.labels) for path in paths))
    for samples in (sets.calibration, sets.evaluation, sets.acceptance):
        if samples is not None:  # the first sample is checked before anything takes long
            next(model_inputs(samples, [0], request.preprocessing, inputs))
    return sets


def _prove(request: ConversionRequest, made: MadeModel, sets: SampleSets) -> Proved:
    """Run the model as the board does, beside the reference and the float model, and time it on this machine."""
    production = open_oracle(made.runnable, kind=request.profile.runtime.kind)
    check_class_names(request, production.outputs[0])
    proof = prove(request, made.runnable, production, sets.calibration)
    _check_runtime(request, made, proof)
    timed = LiteRtInterpreter(made.runnable, kernels=host_kernels(request.profile))
    latency = measure_latency(timed, [tensor[0] for tensor in proof.inputs])
    check_latency(latency, request.profile, architecture=platform.machine())
    input_names = [spec.name for spec in production.inputs]
    acceptance = None if sets.acceptance is None else acceptance_npz(sets.acceptance, input_names)
    changed = made.quantized is not None and made.data != made.source.data
    quality = assess(
        request,
        production,
        sets,
        reference=proof.reference,
        float_model=made.source.data if changed else None,
        acceptance=acceptance,
        reported=made.reported,
    )
    return Proved(
        made=made,
        production=production,
        proof=proof,
        quality=quality,
        acceptance=acceptance,
        latency=latency,
        layers=_layers(request, made, sets) if request.explain else (),
        advice=_advice(request, made, sets),
    )


def _check_runtime(request: ConversionRequest, made: MadeModel, proof: Proof) -> None:
    """Let the board's own runtime answer beside LiteRT's reference kernels: it may be wrong in ways that no rule knows.

    Raises:
        ModelFailedError: its answers differ by more than rounding does.
    """
    kind = request.profile.runtime.kind
    samples = [[tensor[number] for tensor in proof.inputs] for number in range(len(proof.inputs[0]))]
    check_runs_right(made.runnable, kind=kind, task=request.task, inputs=samples, roles=request.roles)


def _layers(request: ConversionRequest, made: MadeModel, sets: SampleSets) -> tuple[LayerError, ...]:
    """Compare the model with its float source, layer by layer.

    Raises:
        InputError: there is no float source, or there are no samples.
    """
    if made.quantized is None:
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
    inputs = model_inputs(samples, chosen, request.preprocessing, specs)
    return explain(made.quantized.reference, made.quantized.named, inputs)


def _advice(request: ConversionRequest, made: MadeModel, sets: SampleSets) -> tuple[str, ...]:
    """Return what belongs into the evidence only, for it comes from this machine's production kernels."""
    if sets.evaluation is None or made.quantized is None:
        return ()
    found = better_preprocessing(made.source.data, sets.evaluation, request.preprocessing, request.task)
    return () if found is None else (found,)
