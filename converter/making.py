# SPDX-License-Identifier: Apache-2.0
"""From a source to the model that goes into the bundle: taken as it is, made by a recipe, or found within budgets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import msgspec
import numpy as np

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.imports.model_files import SourceModel
from converter.adapters.samples.sets import SampleSet
from converter.core.board.checks import check_board, outdated_operators
from converter.core.board.cost import Cost
from converter.core.graph import GraphFacts
from converter.core.recipe import Recipe, default_recipe
from converter.core.request import ConversionRequest
from converter.core.search.budgets import SearchBudgets
from converter.fitting import board_cost, candidate_cost, check_cost, compiled, planned
from converter.proof import SampleSets
from converter.quantization import Quantized, quantize
from converter.sample_parts import Parts, calibration_part, split_samples
from converter.search import SearchRequest, find_recipe
from edgefleet.contracts.errors import InputError, ModelFailedError, UnsupportedModelError
from edgefleet.contracts.evidence import Candidate
from edgefleet.contracts.manifest import Accelerator, Budgets
from edgefleet.contracts.profile import AcceleratorFacts, Profile
from edgefleet.runtimes.litert import LiteRtInterpreter

Say = Callable[[str], None]
#: The search starts here unless a recipe says otherwise.
_START = Recipe(precision="int8")
_NO_LIMITS = SearchBudgets()


@dataclass(frozen=True)
class MadeModel:
    """The model that goes into the bundle, and what it came from.

    ``runnable`` is what an interpreter on this machine can run: the same model, or the one before an NPU's compiler.
    ``quantized`` is what the recipe made of a float source, before anything was fitted to the board. ``reported`` are
    the samples that decided nothing, where a search parted the evaluation set; ``cost`` is what the model needs on the
    board. ``notes`` go into the bundle, and so depend on nothing but what it is made from; ``remarks`` do not.
    """

    data: bytes
    facts: GraphFacts
    source: SourceModel
    runnable: bytes
    cost: Cost
    recipe: Recipe | None = None
    quantized: Quantized | None = None
    rewrites: tuple[str, ...] = ()
    accelerator: Accelerator | None = None
    candidates: tuple[Candidate, ...] = ()
    reported: SampleSet | None = None
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Chosen:
    """A quantized model with the recipe that made it, and the candidates that it was chosen among."""

    quantized: Quantized
    recipe: Recipe
    candidates: tuple[Candidate, ...] = ()
    reported: SampleSet | None = None
    remarks: tuple[str, ...] = ()


def make_model(
    request: ConversionRequest,
    source: SourceModel,
    facts: GraphFacts,
    sets: SampleSets,
    *,
    clock: Callable[[], float],
    say: Say,
) -> MadeModel:
    """Make the model and check that the board runs it right, within its budgets.

    ``clock`` counts seconds, and bounds a search; ``say`` is told each candidate of one.

    Raises:
        InputError: a sample set is missing.
        RefusedError: the model, the samples or the board do not fit each other; the subclass says which.
    """
    profile = request.profile
    if facts.precision() != "float32":
        made = _taken(request, source, facts)
    elif request.limits == _NO_LIMITS:
        made = _fitted(_by_recipe(request, source, sets), source, profile)
    else:
        made = _fitted(_searched(request, source, sets, clock=clock, say=say), source, profile)
    check_board(made.facts, profile)
    if profile.accelerator is not None:
        made = _compiled(made, profile, profile.accelerator)
    check_cost(made.data, made.cost, profile)
    return made


def _taken(request: ConversionRequest, source: SourceModel, facts: GraphFacts) -> MadeModel:
    if request.limits != _NO_LIMITS:
        raise InputError(
            "the model is quantized already, so that there is nothing to search for within budgets",
            hint="give the float model, or leave the --max-… options out: the profile's budgets are checked anyway",
        )
    ignored = "the recipe was not followed: the model is quantized already, and taken as it is"
    notes = tuple(
        f"{name} says a lower version than its types need; runtimes older than LiteRT may compute it wrongly"
        for name in outdated_operators(facts)
    )
    return MadeModel(
        source.data,
        facts,
        source,
        runnable=source.data,
        cost=board_cost(source.data, request.profile),
        notes=notes,
        remarks=() if request.recipe is None else (ignored,),
    )


def _by_recipe(request: ConversionRequest, source: SourceModel, sets: SampleSets) -> _Chosen:
    recipe = request.recipe or default_recipe(request.profile)
    calibration = None if sets.calibration is None else calibration_part(sets.calibration, recipe.calibrate_on)
    return _Chosen(quantize(source.data, recipe, calibration, request.preprocessing), recipe)


def _searched(
    request: ConversionRequest, source: SourceModel, sets: SampleSets, *, clock: Callable[[], float], say: Say
) -> _Chosen:
    start, parts = _start(request, sets)
    anywhere = msgspec.structs.replace(request.profile, budgets=Budgets())  # sizes are the search's own matter
    numbers = count(1)
    found = find_recipe(
        SearchRequest(
            model=source.data,
            start=start,
            budgets=_with_profile(request.limits, request.profile),
            precisions=request.profile.precisions,
            samples=parts,
            preprocessing=request.preprocessing,
            task=request.task,
            metric=request.metric,
            roles=request.roles,
            clock=clock,
            limit_s=request.search_limit_s,
            cost=lambda model: candidate_cost(model, request.profile),
            check=lambda model: check_board(read_facts(model), anywhere),
            progress=lambda measured: say(f"candidate {next(numbers)}: {measured}"),
        )
    )
    refusal = found.refusal()
    if refusal is not None:
        raise refusal
    return _Chosen(
        found.quantized,
        found.recipe,
        found.candidates,
        reported=None if sets.evaluation is None else parts.report,
        remarks=found.remarks,
    )


def _start(request: ConversionRequest, sets: SampleSets) -> tuple[Recipe, Parts]:
    """Return what a search starts from, and the samples that it may use for what.

    Without evaluation samples the calibration set is parted, and the recipe says so: it makes the same model again.
    """
    if sets.calibration is None:
        raise InputError(
            "searching for a model within budgets needs calibration samples",
            hint="name some with --calibration, and labelled ones that it never sees with --evaluation",
        )
    start = request.recipe or _START
    if sets.evaluation is None:
        return msgspec.structs.replace(start, calibrate_on="first-third"), split_samples(sets.calibration, None)
    return start, split_samples(calibration_part(sets.calibration, start.calibrate_on), sets.evaluation)


def _with_profile(limits: SearchBudgets, profile: Profile) -> SearchBudgets:
    """Return the limits that were given, and the profile's where none was."""
    budgets = profile.budgets
    return SearchBudgets(
        model_bytes=budgets.model_bytes if limits.model_bytes is None else limits.model_bytes,
        arena_bytes=budgets.arena_bytes if limits.arena_bytes is None else limits.arena_bytes,
        latency_us=limits.latency_us,  # the profile's is a 99th percentile, which admission measures on the device
        drop=limits.drop,
    )


def _fitted(chosen: _Chosen, source: SourceModel, profile: Profile) -> MadeModel:
    """Return the chosen model, with an arena plan where the board wants one."""
    if chosen.recipe.precision != "float32":
        _check_runs(chosen.quantized.data, chosen.recipe)
    data, plans = planned(chosen.quantized.data, profile)
    return MadeModel(
        data,
        read_facts(data),
        source,
        runnable=data,
        cost=board_cost(data, profile),
        recipe=chosen.recipe,
        quantized=chosen.quantized,
        rewrites=(*chosen.quantized.rewrites, *plans),
        candidates=chosen.candidates,
        reported=chosen.reported,
        notes=chosen.quantized.warnings,
        remarks=chosen.remarks,
    )


def _check_runs(model: bytes, recipe: Recipe) -> None:
    """Run a model once on zeros; its source was probed in another process, so that this one may do it."""
    try:
        interpreter = LiteRtInterpreter(model, kernels="reference")
        interpreter.invoke([np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs])
    except (ModelFailedError, UnsupportedModelError) as error:
        raise ModelFailedError(
            f"quantized to {recipe.precision}, the model does not run: {error.message}",
            hint='keep it float with a recipe (precision = "float32"), or change the operator that is named',
        ) from error


def _compiled(made: MadeModel, profile: Profile, accelerator: AcceleratorFacts) -> MadeModel:
    """Put the copy for the board's NPU into the place of the model."""
    done = compiled(made.data, profile, accelerator)
    return replace(
        made,
        data=done.data,
        cost=done.cost,
        accelerator=done.accelerator,
        rewrites=(*made.rewrites, done.rewrite),
        notes=(*made.notes, done.note),
    )
