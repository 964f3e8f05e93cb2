# SPDX-License-Identifier: Apache-2.0
"""Single operators, built from the schema: the rules say what each runtime does with them, and TFLM counts as we do."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.operator_models import DATA, OPERATORS, Data, SingleOperator, build, sample
from converter.adapters.flatbuffers.offline_plan import embed_plan, plan_for, without_plan
from converter.adapters.flatbuffers.reading import read_facts, with_versions_written
from converter.core.board.arena import greedy, live_buffers
from converter.core.board.cost import Interpreter, arena_memory
from converter.core.board.runtime_rules import MEASURED, NOT_IN_INTEGERS, TFLM_OPERATORS, first_refusal
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import RuntimeKind
from edgefleet.runtimes.interpreter import Interpreter as Loaded
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.oracle import check_runs_right, compare, open_oracle
from edgefleet.runtimes.tensors import dequantize, to_model_inputs
from edgefleet.runtimes.tflm import TflmInterpreter
from edgefleet.runtimes.tflm_arena import recorded_arena

Needs = Callable[[RuntimeKind], None]
WHEEL = Interpreter(pointer_bytes=8, wheel=True)
BY_LABEL = {operator.label: operator for operator in OPERATORS}
#: Each one that TFLM has, in one type that it takes, the types in turn; starting it takes a third of a second each.
ON_TFLM: list[tuple[str, Data]] = [
    (label, takes[sum(map(ord, label)) % len(takes)])
    for label, operator in sorted(BY_LABEL.items())
    if operator.name in TFLM_OPERATORS and "another scale" not in label
    for takes in [[data for data in DATA if operator.name not in NOT_IN_INTEGERS.get(("tflm", data), ())]]
]
#: One for every reason to refuse integers, on the runtime that has it.
REFUSED: list[tuple[str, Data, RuntimeKind]] = [
    ("EXP", "int8", "tflm"), ("NEG", "int8", "tflite-runtime"), ("GREATER", "int16", "tflm"),
    ("MIRROR_PAD", "int16", "tflm"), ("PRELU", "int16", "litert"), ("HARD_SWISH", "int16", "litert"),
]  # fmt: skip


def model_of(operator: SingleOperator, data: Data) -> bytes:
    return with_versions_written(build(operator, data))


def answers(interpreter: Loaded, operator: SingleOperator) -> np.ndarray:
    outputs = [interpreter.invoke(to_model_inputs(sample(operator, seed), interpreter.inputs)) for seed in range(3)]
    return np.concatenate([
        dequantize(values, spec).reshape(-1)
        for answer in outputs
        for values, spec in zip(answer, interpreter.outputs, strict=True)
    ])  # fmt: skip


def float_answers(operator: SingleOperator) -> np.ndarray:
    return answers(LiteRtInterpreter(build(operator, "float32")), operator)


@pytest.mark.parametrize(("label", "data"), ON_TFLM, ids=[f"{label} {data}" for label, data in ON_TFLM])
def test_tflm_computes_an_operator_right_in_the_arena_that_is_predicted(label: str, data: Data, needs: Needs) -> None:
    needs("tflm")
    operator = BY_LABEL[label]
    model = model_of(operator, data)
    facts = read_facts(model)
    assert first_refusal(facts, "tflm", MEASURED["tflm"]) is None
    expected = float_answers(operator)
    interpreter = TflmInterpreter(model)
    off = answers(interpreter, operator) - expected
    # a step of 8 bits more or less makes some pairs equal that were not
    allowed = 0.15 if operator.out == "bool" else 0.05 * max(expected.std(), 1e-3)
    assert np.sqrt((off**2).mean()) <= allowed
    plan, measured = greedy(live_buffers(facts)), recorded_arena(interpreter)
    predicted = arena_memory(facts, plan, WHEEL)
    assert plan.size_bytes == measured.head_bytes
    assert predicted.tail_bytes == measured.tail_bytes


@pytest.mark.parametrize(("label", "data", "kind"), REFUSED)
def test_integers_that_a_runtime_does_not_compute_right_are_refused_by_name_and_floats_run(
    label: str, data: Data, kind: RuntimeKind, needs: Needs
) -> None:
    needs(kind)
    operator = BY_LABEL[label]
    found = first_refusal(read_facts(model_of(operator, data)), kind, MEASURED[kind])
    assert str(found) == f"{operator.name} in {data} is not run right by {kind}"
    assert found is not None
    assert found.instead.startswith("float32 for this operator")
    assert not is_right(operator, data, kind)
    assert first_refusal(read_facts(model_of(operator, "float32")), kind, MEASURED[kind]) is None
    assert is_right(operator, "float32", kind)


def is_right(operator: SingleOperator, data: Data, kind: RuntimeKind) -> bool:
    expected = float_answers(operator)
    try:
        off = answers(open_oracle(model_of(operator, data), kind=kind), operator) - expected
    except EdgeFleetError:
        return False
    return bool(np.sqrt((off**2).mean()) < 0.15 * expected.std())


def test_sums_of_integers_are_refused_where_litert_proves_them_and_run_on_tflm(needs: Needs) -> None:
    """LiteRT's reference kernels add integers in eight bits and forget their zero point; production kernels do not."""
    needs("tflm")
    operator = BY_LABEL["SUM"]
    model = model_of(operator, "int8")
    expected = float_answers(operator)
    for kernels, right in (("production", True), ("reference", False)):
        off = answers(LiteRtInterpreter(model, kernels=kernels), operator) - expected  # type: ignore[arg-type]
        assert bool(np.abs(off).max() < 0.2) == right
    for kind in ("litert", "tflite-runtime"):
        assert str(first_refusal(read_facts(model), kind, MEASURED[kind])) == (  # type: ignore[arg-type, index]
            f"SUM of int8 is computed wrongly by LiteRT's reference kernels, which prove a bundle for {kind}"
        )
    assert first_refusal(read_facts(model), "tflm", "1") is None
    specs = LiteRtInterpreter(model).inputs
    inputs = [to_model_inputs(sample(operator, seed), specs) for seed in range(4)]
    assert check_runs_right(model, kind="tflm", task="regression", inputs=inputs).difference < 0.1


@pytest.mark.parametrize("kind", ["tflite-runtime", "tflm"])
def test_products_of_two_16_bit_matrices_run_right(kind: RuntimeKind, needs: Needs) -> None:
    needs(kind)
    operator = BY_LABEL["BATCH_MATMUL"]
    assert first_refusal(read_facts(model_of(operator, "int16")), kind, MEASURED[kind]) is None
    assert is_right(operator, "int16", kind)


def test_every_operator_is_planned_no_larger_than_tflm_does_and_its_plan_is_sound() -> None:
    for operator in OPERATORS:
        for data in DATA:
            model = model_of(operator, data)
            own, best = plan_for(model)
            assert best.bound_bytes <= best.size_bytes <= own.size_bytes
            embedded = embed_plan(model, best)  # refuses an unsound one
            assert plan_for(without_plan(embedded))[0].size_bytes == own.size_bytes


def test_litert_production_kernels_agree_with_its_reference_kernels_where_no_rule_refuses() -> None:
    """What both have; the rules know the rest."""
    seen = 0
    for operator in OPERATORS:
        for data in DATA:
            model = model_of(operator, data)
            if first_refusal(read_facts(model), "litert", MEASURED["litert"]) is not None:
                continue
            try:
                reference = LiteRtInterpreter(model, kernels="reference")
            except EdgeFleetError:
                continue  # no reference kernel: such a model is refused before anything else
            production = LiteRtInterpreter(model)
            inputs = [to_model_inputs(sample(operator, seed), production.inputs) for seed in range(2)]
            found = compare(production, reference, inputs) if "another scale" not in operator.label else None
            assert found is None or found.difference < 0.1, (operator.label, data)
            seen += 1
    assert seen > 150
