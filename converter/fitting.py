# SPDX-License-Identifier: Apache-2.0
"""Fit a model to its board: an arena plan for a microcontroller, a compiled copy for an NPU; what it costs there."""

from typing import NamedTuple

from converter.adapters.flatbuffers.compaction import compact
from converter.adapters.flatbuffers.offline_plan import carried_plan, embed_plan, plan_for, read_plan, variable_tensors
from converter.adapters.flatbuffers.reading import read_facts, read_model
from converter.adapters.vela import compile_npu
from converter.core.board.cost import Cost, predict
from converter.search import BoardCost
from edgefleet.contracts.errors import BudgetError
from edgefleet.contracts.manifest import Accelerator
from edgefleet.contracts.profile import AcceleratorFacts, Profile


class Planned(NamedTuple):
    """A model, and what was done to it in a sentence where an arena plan was embedded."""

    data: bytes
    rewrites: tuple[str, ...] = ()


class Compiled(NamedTuple):
    """A model that an NPU's compiler has rewritten: nothing here runs it. ``note`` tells what runs where."""

    data: bytes
    accelerator: Accelerator
    cost: Cost
    rewrite: str
    note: str


def planned(model: bytes, profile: Profile) -> Planned:
    """Embed an arena plan for a microcontroller where it is better than the interpreter's own; vela makes its own."""
    if profile.runtime.kind != "tflm" or profile.accelerator is not None:
        return Planned(model)
    own, best = plan_for(model)
    if best.size_bytes >= own.size_bytes:
        return Planned(model)
    said = f"arena planned offline: {best.size_bytes} bytes where TFLM's own plan takes {own.size_bytes}"
    return Planned(compact(embed_plan(model, best)), (said,))


def compiled(model: bytes, profile: Profile, accelerator: AcceleratorFacts) -> Compiled:
    """Compile a model for the board's NPU.

    Raises:
        MissingExtraError, MissingProgramError: vela is not installed.
        ProfileError: vela does not know the accelerator.
        UnsupportedModelError: it cannot compile the model, or too little of it would run on the NPU.
    """
    made = compile_npu(model, accelerator)
    left = f"; on the processor: {', '.join(made.report.left_on_cpu)}" if made.report.left_on_cpu else ""
    return Compiled(
        data=made.model,
        accelerator=Accelerator(id=accelerator.id, npu_share=made.npu_share),
        cost=board_cost(made.model, profile, npu_latency_us=made.report.inference_us),
        rewrite=f"compiled by vela {made.report.tool_version}",
        note=f"compiled for {accelerator.id}, {made.npu_share:.0%} of the operators on the NPU{left}; not run here",
    )


def board_cost(model: bytes, profile: Profile, *, npu_latency_us: float | None = None) -> Cost:
    """Predict what a model costs on a profile's board, under the arena plan that it carries, if any.

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


def candidate_cost(model: bytes, profile: Profile) -> BoardCost:
    """Predict what a candidate of a search costs on the board, once its arena is planned or it is compiled.

    Raises:
        EdgeFleetError: see :func:`compiled`.
    """
    if profile.accelerator is None:
        data = planned(model, profile).data
        cost = board_cost(data, profile)
    else:
        data, _, cost, *_ = compiled(model, profile, profile.accelerator)
    return BoardCost(model_bytes=len(data), arena_bytes=cost.needed_arena_bytes, latency_us=cost.latency_us)


def check_cost(model: bytes, cost: Cost, profile: Profile) -> None:
    """Refuse a model that is larger, as the bundle has it, or whose arena is larger than the profile allows.

    Raises:
        BudgetError: it is.
    """
    most_bytes = profile.budgets.model_bytes
    if most_bytes is not None and len(model) > most_bytes:
        raise BudgetError(
            f"the model has {len(model)} bytes; profile '{profile.id}' allows {most_bytes} (budgets.model_bytes)",
            hint="train a smaller model, or raise the budget in the profile if the board has room",
        )
    limit = profile.budgets.arena_bytes
    if cost.needed_arena_bytes is not None and limit is not None and cost.needed_arena_bytes > limit:
        raise BudgetError(
            f"the model needs an arena of {cost.needed_arena_bytes} bytes; "
            f"profile '{profile.id}' allows {limit} (budgets.arena_bytes)",
            hint="train a model with smaller activations, or raise the budget in the profile if the board has room",
        )
