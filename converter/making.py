# SPDX-License-Identifier: Apache-2.0
"""From a source to the model that goes into the bundle: taken as it is, made by a recipe, or found within budgets.

What a board needs besides comes after that: an arena plan for microcontrollers, a compiled copy for an NPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from converter.adapters.flatbuffers.compaction import compact
from converter.adapters.flatbuffers.offline_plan import carried_plan, embed_plan, plan_for, read_plan, variable_tensors
from converter.adapters.flatbuffers.reading import read_facts, read_model
from converter.adapters.imports.model_files import SourceModel
from converter.adapters.samples.sets import SampleSet
from converter.adapters.vela import compile_npu
from converter.core.board.checks import check_board, outdated_operators
from converter.core.board.cost import Cost, predict
from converter.core.graph import GraphFacts
from converter.core.recipe import Recipe, default_recipe
from converter.core.request import ConversionRequest
from converter.core.search.budgets import SearchBudgets
from converter.proof import SampleSets
from converter.quantization import Quantized, quantize
from converter.sample_parts import split_samples
from converter.search import BoardCost, SearchRequest, find_recipe
from edgefleet.contracts.errors import BudgetError, InputError, ModelFailedError, UnsupportedModelError
from edgefleet.contracts.evidence import Candidate
from edgefleet.contracts.manifest import Accelerator, Budgets
from edgefleet.contracts.profile import AcceleratorFacts, Profile
from edgefleet.runtimes.probe import probe_model

#: The search starts here unless a recipe says otherwise.
_START = Recipe(precision="int8")
_NO_LIMITS = SearchBudgets()


@dataclass(frozen=True)
class MadeModel:
    """The model that goes into the bundle, and what it came from.

    ``runnable`` is what an interpreter on this machine can run: the same model, or the one before an NPU's compiler.
    ``named`` still has the names of inner tensors. ``reported`` are the samples that decided nothing, where a search
    parted the evaluation set; ``cost`` is what the model needs on the board.
    """

    data: bytes
    facts: GraphFacts
    source: SourceModel
    source_is_float: bool
    runnable: bytes
    cost: Cost
    named: bytes = b""
    recipe: Recipe | None = None
    conditioning: str | None = None
    rewrites: tuple[str, ...] = ()
    accelerator: Accelerator | None = None
    candidates: tuple[Candidate, ...] = ()
    reported: SampleSet | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Chosen:
    """A quantized model with the recipe that made it, and the candidates that it was chosen among."""

    quantized: Quantized
    recipe: Recipe
    candidates: tuple[Candidate, ...] = ()
    reported: SampleSet | None = None


def make_model(
    request: ConversionRequest, source: SourceModel, facts: GraphFacts, sets: SampleSets, clock: Callable[[], float]
) -> MadeModel:
    """Make the model and check that the board runs it right, within its budgets.

    Raises:
        InputError: a sample set is missing.
        RefusedError: the model, the samples or the board do not fit each other; the subclass says which.
    """
    made = (
        _taken(request, source, facts) if facts.precision() != "float32" else _from_float(request, source, sets, clock)
    )
    check_board(made.facts, request.profile)
    if request.profile.accelerator is not None:
        made = _compiled(made, request.profile, request.profile.accelerator)
    _check_arena(made.cost, request.profile)
    return made


def _taken(request: ConversionRequest, source: SourceModel, facts: GraphFacts) -> MadeModel:
    if request.limits != _NO_LIMITS:
        raise InputError(
            "the model is quantized already, so that there is nothing to search for within budgets",
            hint="give the float model, or leave the --max-… options out: the profile's budgets are checked anyway",
        )
    notes = tuple(
        f"{name} says a lower version than its types need; runtimes older than LiteRT may compute it wrongly"
        for name in outdated_operators(facts)
    )
    cost = board_cost(source.data, request.profile)
    return MadeModel(source.data, facts, source, source_is_float=False, runnable=source.data, cost=cost, notes=notes)


def _from_float(
    request: ConversionRequest, source: SourceModel, sets: SampleSets, clock: Callable[[], float]
) -> MadeModel:
    chosen = (
        _by_recipe(request, source, sets) if request.limits == _NO_LIMITS else _searched(request, source, sets, clock)
    )
    if chosen.recipe.precision != "float32":
        _probe(chosen.quantized.data, chosen.recipe)
    data, planned = _planned(chosen.quantized.data, request.profile)
    return MadeModel(
        data,
        read_facts(data),
        source,
        source_is_float=True,
        runnable=data,
        cost=board_cost(data, request.profile),
        named=chosen.quantized.named or chosen.quantized.data,
        recipe=chosen.recipe,
        conditioning=chosen.quantized.conditioning,
        rewrites=(*chosen.quantized.rewrites, *planned),
        candidates=chosen.candidates,
        reported=chosen.reported,
        notes=chosen.quantized.warnings,
    )


def _by_recipe(request: ConversionRequest, source: SourceModel, sets: SampleSets) -> _Chosen:
    recipe = request.recipe or default_recipe(request.profile)
    return _Chosen(quantize(source.data, recipe, sets.calibration, request.preprocessing), recipe)


def _searched(request: ConversionRequest, source: SourceModel, sets: SampleSets, clock: Callable[[], float]) -> _Chosen:
    if sets.calibration is None:
        raise InputError(
            "searching for a model within budgets needs calibration samples",
            hint="name some with --calibration, and labelled ones that it never sees with --evaluation",
        )
    parts = split_samples(sets.calibration, sets.evaluation)
    anywhere = msgspec.structs.replace(request.profile, budgets=Budgets())  # sizes are the search's own matter
    found = find_recipe(
        SearchRequest(
            model=source.data,
            start=request.recipe or _START,
            budgets=_with_profile(request.limits, request.profile),
            precisions=request.profile.precisions,
            samples=parts,
            preprocessing=request.preprocessing,
            task=request.task,
            metric=request.metric,
            clock=clock,
            limit_s=request.search_limit_s,
            cost=lambda model: _search_cost(model, request.profile),
            check=lambda model: check_board(read_facts(model), anywhere),
        )
    )
    refusal = found.refusal()
    if refusal is not None:
        raise refusal
    return _Chosen(found.quantized, found.recipe, found.candidates, parts.report if sets.evaluation else None)


def _with_profile(limits: SearchBudgets, profile: Profile) -> SearchBudgets:
    """Return the limits that were given, and the profile's where none was."""
    budgets = profile.budgets
    return SearchBudgets(
        model_bytes=budgets.model_bytes if limits.model_bytes is None else limits.model_bytes,
        arena_bytes=budgets.arena_bytes if limits.arena_bytes is None else limits.arena_bytes,
        latency_us=limits.latency_us,  # the profile's is a 99th percentile, which admission measures on the device
        drop=limits.drop,
    )


def _search_cost(model: bytes, profile: Profile) -> BoardCost:
    cost = board_cost(_planned(model, profile)[0], profile)
    return BoardCost(arena_bytes=cost.needed_arena_bytes, latency_us=cost.latency_us)


def _probe(model: bytes, recipe: Recipe) -> None:
    try:
        probe_model(model, kernels="reference")
    except (ModelFailedError, UnsupportedModelError) as error:
        raise ModelFailedError(
            f"quantized to {recipe.precision}, the model does not run: {error.message}",
            hint='keep it float with a recipe (precision = "float32"), or change the operator that is named',
        ) from error


def _planned(model: bytes, profile: Profile) -> tuple[bytes, tuple[str, ...]]:
    """Embed an arena plan for a microcontroller where it is better than the interpreter's own; vela makes its own."""
    if profile.runtime.kind != "tflm" or profile.accelerator is not None:
        return model, ()
    own, best = plan_for(model)
    if best.size_bytes >= own.size_bytes:
        return model, ()
    said = f"arena planned offline: {best.size_bytes} bytes where TFLM's own plan takes {own.size_bytes}"
    return compact(embed_plan(model, best)), (said,)


def board_cost(model: bytes, profile: Profile, *, npu_latency_us: float | None = None) -> Cost:
    """Predict what a model costs on a profile's board; on a microcontroller under the arena plan that it would get.

    Raises:
        UnsupportedModelError: the board is a microcontroller, and the model has inner graphs.
    """
    facts = read_facts(model)
    if profile.runtime.kind != "tflm":
        return predict(facts, None, profile)
    return predict(
        facts,
        carried_plan(model),
        profile,
        planner="offline" if read_plan(model) else "tflm-greedy",
        variables=variable_tensors(read_model(model)),
        npu_latency_us=npu_latency_us,
    )


def _check_arena(cost: Cost, profile: Profile) -> None:
    limit = profile.budgets.arena_bytes
    if cost.needed_arena_bytes is not None and limit is not None and cost.needed_arena_bytes > limit:
        raise BudgetError(
            f"the model needs an arena of {cost.needed_arena_bytes} bytes; "
            f"profile '{profile.id}' allows {limit} (budgets.arena_bytes)",
            hint="train a model with smaller activations, or raise the budget in the profile if the board has room",
        )


def _compiled(made: MadeModel, profile: Profile, accelerator: AcceleratorFacts) -> MadeModel:
    """Compile the model for the board's NPU; what comes out runs nowhere here."""
    compiled = compile_npu(made.data, accelerator)
    left = f"; on the processor: {', '.join(compiled.report.left_on_cpu)}" if compiled.report.left_on_cpu else ""
    note = f"compiled for {accelerator.id}, {compiled.npu_share:.0%} of the operators on the NPU{left}; not run here"
    return replace(
        made,
        data=compiled.model,
        cost=board_cost(compiled.model, profile, npu_latency_us=compiled.report.inference_us),
        accelerator=Accelerator(id=accelerator.id, npu_share=compiled.npu_share),
        rewrites=(*made.rewrites, f"compiled by vela {compiled.report.tool_version}"),
        notes=(*made.notes, note),
    )
