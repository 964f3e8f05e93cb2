# SPDX-License-Identifier: Apache-2.0
"""Whether a board runs a model: precision, operators, operator versions, budgets. Each refusal names what is wrong."""

from converter.core.board.operator_versions import is_older, minimum_runtime_version, required_version
from converter.core.board.runtime_rules import first_refusal
from converter.core.graph import POST_PROCESS, GraphFacts
from edgefleet.contracts.errors import BudgetError, UnsupportedModelError
from edgefleet.contracts.evidence import Latency
from edgefleet.contracts.profile import Profile

_CONTROL_FLOW = frozenset({"CALL", "CALL_ONCE", "IF", "WHILE"})
#: Inputs and outputs have a file each in a bundle, which has at most 63; the model, its card, its recipe and acceptance
#: examples are the others.
_MOST_ENDS = 59
_ANOTHER = "choose another profile, or train the model without it"


def check_source(facts: GraphFacts) -> None:
    """Refuse what no board of this release runs.

    Raises:
        UnsupportedModelError: a custom operator, other than the post-process of detections; more inputs and outputs
            than a bundle has room for.
    """
    ends = len(facts.inputs) + len(facts.outputs)
    if ends > _MOST_ENDS:
        raise UnsupportedModelError(
            f"the model has {ends} inputs and outputs, and a bundle has room for {_MOST_ENDS}",
            hint="export the model with fewer: inputs of one kind as one tensor",
        )
    custom = sorted({operator.name for operator in facts.operators if operator.custom} - {POST_PROCESS})
    if custom:
        raise UnsupportedModelError(
            f"the model has the custom operator '{custom[0]}', which no profile's runtime has",
            hint="export the model with TFLite's built-in operators only",
        )


def check_quantizable(facts: GraphFacts) -> None:
    """Refuse what the quantizer cannot reach: the inner graphs of control flow.

    Raises:
        UnsupportedModelError: the message names the operator.
    """
    inner = [name for name in facts.operator_names() if name in _CONTROL_FLOW]
    if inner:
        raise UnsupportedModelError(
            f"the model has the operator {inner[0]}, whose inner graph cannot be quantized",
            hint='keep it float with a recipe (precision = "float32"), or unroll it: in Keras LSTM(…, unroll=True)',
        )


def check_board(facts: GraphFacts, profile: Profile) -> None:
    """Refuse a model that the board does not run right.

    Raises:
        UnsupportedModelError: precision, operator or operator version.
        BudgetError: the model is larger than the board's budget.
    """
    check_operators(facts, profile)
    _check_runtime(facts, profile)
    _check_precision(facts, profile)
    _check_size(facts, profile)


def check_latency(latency: Latency, profile: Profile, *, architecture: str) -> None:
    """Refuse a model whose median here is over the 99th percentile that the board allows.

    Only where this machine's ``architecture`` is the board's: another says nothing of it. The device measures again.

    Raises:
        BudgetError: it is.
    """
    limit = profile.budgets.latency_p99_us
    if limit is not None and architecture == profile.cpu.architecture and latency.p50_us > limit:
        raise BudgetError(
            f"an inference takes {latency.p50_us:.0f} µs here (median); "
            f"profile '{profile.id}' allows {limit} (budgets.latency_p99_us)",
            hint="train a smaller model, or raise the budget in the profile if the product can wait",
        )


def outdated_operators(facts: GraphFacts) -> tuple[str, ...]:
    """Return the operators whose version is lower than their types ask for, sorted, each once."""
    return tuple(sorted({o.name for o in facts.operators if o.version < required_version(o, facts)}))


def needed_runtime(facts: GraphFacts) -> str:
    """Return the oldest TFLite release that runs the model, from its operators' versions and its own statement."""
    versions: dict[str, int] = {}
    for operator in (operator for operator in facts.operators if not operator.custom):
        needed = max(operator.version, required_version(operator, facts))
        versions[operator.name] = max(needed, versions.get(operator.name, 0))
    newest = minimum_runtime_version(versions)
    stated = facts.minimum_runtime_version
    return stated if stated is not None and is_older(newest, stated) else newest


def check_operators(facts: GraphFacts, profile: Profile) -> None:
    """Refuse an operator that a board does not list; a board without a list runs what its runtime has.

    Raises:
        UnsupportedModelError: the message names the first.
    """
    if not profile.operators:
        return
    missing = [name for name in facts.operator_names() if name not in profile.operators]
    if missing:
        raise UnsupportedModelError(
            f"the model has the operator {missing[0]}, which profile '{profile.id}' does not run", hint=_ANOTHER
        )


def precision_notes(facts: GraphFacts) -> tuple[str, ...]:
    """Return what is worth knowing of a model that computes in integers and in floats."""
    rest = facts.operators_in_float()
    return (f"computed in float, not in integers: {', '.join(rest)}",) if facts.precision() == "mixed" and rest else ()


def _check_precision(facts: GraphFacts, profile: Profile) -> None:
    precision = facts.precision()
    if precision in profile.precisions:
        return
    rest = facts.operators_in_float()
    because = f": the operator {rest[0]} stays in float" if precision == "mixed" and rest else ""
    raise UnsupportedModelError(
        f"the model computes in {precision}{because}; profile '{profile.id}' runs {', '.join(profile.precisions)}",
        hint="choose another recipe or profile, or train the model without that operator",
    )


def _check_runtime(facts: GraphFacts, profile: Profile) -> None:
    """Refuse what the board's runtime would not load, or load and compute wrongly."""
    kind, version = profile.runtime.kind, profile.runtime.version
    refusal = first_refusal(facts, kind, version)
    if refusal is not None:
        raise UnsupportedModelError(
            f"{refusal}; profile '{profile.id}' has {kind} {version}", hint=f"what would work: {refusal.instead}"
        )
    needed = needed_runtime(facts)  # the file may ask for more than its operators do
    if kind == "tflite-runtime" and is_older(version, needed):
        raise UnsupportedModelError(
            f"the model needs TFLite {needed}; profile '{profile.id}' has {version}",
            hint="update the board's runtime, or choose another recipe",
        )


def _check_size(facts: GraphFacts, profile: Profile) -> None:
    limit = profile.budgets.model_bytes
    if limit is not None and facts.size_bytes > limit:
        raise BudgetError(
            f"the model has {facts.size_bytes} bytes; profile '{profile.id}' allows {limit} (budgets.model_bytes)",
            hint="train a smaller model, or raise the budget in the profile if the board has room",
        )
