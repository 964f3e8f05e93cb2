# SPDX-License-Identifier: Apache-2.0
"""The search on real models: three parts of the samples, and a report on what nothing was chosen by."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.adapters.samples.sets import ArraySamples
from converter.core.recipe import Recipe, recipe_sha256
from converter.core.scoring import default_metric
from converter.core.search.budgets import Found, Nearest, SearchBudgets
from converter.judging import relative_error
from converter.observation import observe
from converter.quantization import quantize, quantize_observed
from converter.sample_parts import Parts, split_samples
from converter.search import BoardCost, SearchRequest, find_recipe
from edgefleet.contracts.errors import InputError, SampleError, UnsupportedModelError
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.runtimes.litert import LiteRtInterpreter

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
START = Recipe(precision="int8", conditioning=("none",))
Ticks = Callable[[], float]


@pytest.fixture(scope="module")
def digits() -> tuple[ArraySamples, ArraySamples]:
    with np.load(DIGITS / "digits.npz") as stored:
        calibration = ArraySamples("calibration", [stored["calibration_x"]], stored["calibration_y"])
        return calibration, ArraySamples("live", [stored["live_x"][:200]], stored["live_y"][:200])


def ticking() -> Ticks:
    ticks: Iterator[int] = iter(range(10**9))
    return lambda: float(next(ticks))


def request(samples: Parts, budgets: SearchBudgets, **changed: Any) -> SearchRequest:
    given: dict[str, Any] = {
        "model": (DIGITS / "v1_float32.tflite").read_bytes(),
        "start": START,
        "budgets": budgets,
        "precisions": ("int8", "int4", "float32", "mixed"),
        "samples": samples,
        "preprocessing": Preprocessing(),
        "task": "classification",
        "metric": default_metric("classification"),
        "clock": ticking(),
    }
    return SearchRequest(**{**given, **changed})


def test_parts_share_nothing_and_do_not_depend_on_the_order(digits: tuple[ArraySamples, ArraySamples]) -> None:
    calibration, live = digits
    parts = split_samples(calibration, live)
    turned = ArraySamples("live", [live.inputs[0][::-1]], live.labels[::-1])  # type: ignore[index]
    again = split_samples(calibration, turned)
    contents = [{part.digest(n) for n in range(len(part))} for part in (parts.search, parts.report)]
    assert not contents[0] & contents[1]
    assert (len(parts.search), len(parts.report)) == (120, 80)
    assert contents == [{part.digest(n) for n in range(len(part))} for part in (again.search, again.report)]
    first = parts.report.raw(0)[0]
    place = next(n for n, x in enumerate(live.inputs[0]) if np.array_equal(x, first))
    assert parts.report.labels is not None
    assert live.labels is not None
    assert parts.report.labels[0] == live.labels[place]


def test_what_calibration_has_seen_is_neither_compared_nor_reported(digits: tuple[ArraySamples, ArraySamples]) -> None:
    calibration, live = digits
    assert calibration.labels is not None
    assert live.labels is not None
    mixed = ArraySamples(
        "mixed",
        [np.concatenate([calibration.inputs[0][:30], live.inputs[0]])],
        np.concatenate([calibration.labels[:30], live.labels]),
    )
    parts = split_samples(calibration, mixed)
    seen = {calibration.digest(n) for n in range(len(calibration))}
    assert len(parts.search) + len(parts.report) == 200
    for part in (parts.search, parts.report):
        assert not seen & {part.digest(n) for n in range(len(part))}


def test_one_set_is_parted_in_three(digits: tuple[ArraySamples, ArraySamples]) -> None:
    calibration, _ = digits
    parts = split_samples(calibration, None)
    digests = [{part.digest(n) for n in range(len(part))} for part in (parts.calibration, parts.search, parts.report)]
    assert sum(map(len, digests)) == len(set.union(*digests)) == len(calibration)


def test_too_few_samples_are_refused(digits: tuple[ArraySamples, ArraySamples]) -> None:
    calibration, live = digits
    few = ArraySamples("live", [live.inputs[0][:30]], None)
    with pytest.raises(SampleError) as refused:
        split_samples(calibration, few)
    assert refused.value.message == "live leaves 18 samples to compare candidates, expected at least 20"


def test_the_smallest_model_within_the_drop_is_found_and_its_recipe_makes_it_again(
    digits: tuple[ArraySamples, ArraySamples],
) -> None:
    parts = split_samples(*digits)
    result = find_recipe(request(parts, SearchBudgets(drop=0.05)))
    assert isinstance(result.outcome, Found)
    assert result.refusal() is None
    whole = next(t for t in result.outcome.trials if t.title == "int8 throughout")
    assert result.outcome.chosen.measured.model_bytes <= whole.measured.model_bytes
    again = quantize((DIGITS / "v1_float32.tflite").read_bytes(), result.recipe, parts.calibration, Preprocessing())
    assert again.data == result.quantized.data
    assert len(again.data) == result.outcome.chosen.measured.model_bytes
    [chosen] = [candidate for candidate in result.candidates if candidate.chosen]
    assert chosen.recipe_sha256 == recipe_sha256(result.recipe)
    assert chosen.on_front


def test_what_is_reported_is_what_the_report_samples_show(digits: tuple[ArraySamples, ArraySamples]) -> None:
    parts = split_samples(*digits)
    result = find_recipe(request(parts, SearchBudgets(drop=0.05), precisions=("int8",), most=4))
    rights = []
    for model in ((DIGITS / "v1_float32.tflite").read_bytes(), result.quantized.data):
        interpreter = LiteRtInterpreter(model, kernels="reference")
        spec = interpreter.inputs[0]
        right = 0
        for number in range(len(parts.report)):
            x = parts.report.raw(number)[0].reshape(spec.shape)
            if spec.scale is not None:
                x = np.clip(np.rint(x / np.float32(spec.scale)) + spec.zero_point, -128, 127)
            answer = interpreter.invoke([x.astype(spec.dtype)])[0]
            assert parts.report.labels is not None
            right += int(answer.argmax() == parts.report.labels[number])
        rights.append(right)
    [chosen] = [candidate for candidate in result.candidates if candidate.chosen]
    assert chosen.drop == pytest.approx((rights[0] - rights[1]) / len(parts.report))
    assert chosen.interval.low <= chosen.drop <= chosen.interval.high


def test_nothing_that_fits_is_refused_with_the_nearest_candidate(digits: tuple[ArraySamples, ArraySamples]) -> None:
    parts = split_samples(*digits)
    result = find_recipe(request(parts, SearchBudgets(model_bytes=1000), precisions=("int8",), most=1))
    assert isinstance(result.outcome, Nearest)
    size = len(result.quantized.data)
    refusal = result.refusal()
    assert refusal is not None
    assert refusal.message == (
        f"none of 1 candidates keeps all budgets; the nearest, 'int8 throughout' with {size} bytes, breaks 1: "
        f"the model's size is {size} bytes, {size - 1000} bytes over the budget of 1000 bytes"
    )
    assert refusal.exit_status == 3


def test_a_find_that_unseen_samples_do_not_confirm_is_taken_back(digits: tuple[ArraySamples, ArraySamples]) -> None:
    calibration, live = digits
    model = (DIGITS / "v1_float32.tflite").read_bytes()
    interpreter = LiteRtInterpreter(model, kernels="reference")
    noise = np.random.default_rng(1).random((80, *interpreter.inputs[0].shape[1:])).astype(np.float32)
    # The float model is right on every picture of noise by definition, so that any other answer there is a drop.
    own = np.asarray([int(interpreter.invoke([x[np.newaxis]])[0].argmax()) for x in noise])
    parts = Parts(calibration, live, ArraySamples("noise", [noise], own))
    result = find_recipe(request(parts, SearchBudgets(drop=0.03), precisions=("int4",), most=1))
    [chosen] = result.candidates
    assert result.outcome.trials[0].measured.worst_drop <= 0.03 < chosen.drop
    assert isinstance(result.outcome, Nearest)
    refusal = result.refusal()
    assert refusal is not None
    assert refusal.message == (
        "none of 1 candidates keeps all budgets; the nearest, 'int4 throughout' with "
        f"{len(result.quantized.data)} bytes, breaks 1: the drop on samples that the search never saw is "
        f"{100 * chosen.drop:.2f} points, {100 * (chosen.drop - 0.03):.2f} points over the budget of 3.00 points"
    )


def test_costs_of_the_board_and_its_refusals_count(digits: tuple[ArraySamples, ArraySamples]) -> None:
    def check(model: bytes) -> None:
        if len(model) < 5500:  # 4-bit weights
            raise UnsupportedModelError("the board does not run that", hint="none")

    result = find_recipe(
        request(
            split_samples(*digits),
            SearchBudgets(latency_us=10.0),
            precisions=("int8", "int4"),
            cost=lambda model: BoardCost(arena_bytes=64, latency_us=float(len(model))),
            check=check,
            most=3,
        )
    )
    assert isinstance(result.outcome, Nearest)
    assert "the board does not run that" in result.outcome.refused
    assert all(trial.measured.arena_bytes == 64 for trial in result.outcome.trials)
    assert [breach.budget for breach in result.outcome.broken] == ["the latency"]


def test_without_labels_the_float_model_is_the_yardstick(digits: tuple[ArraySamples, ArraySamples]) -> None:
    calibration, live = digits
    parts = split_samples(calibration, ArraySamples("live", live.inputs, None))
    result = find_recipe(request(parts, SearchBudgets(), precisions=("float32", "dynamic-int8")))
    floats = next(trial for trial in result.outcome.trials if trial.title == "float32 throughout")
    assert (floats.measured.drop, floats.measured.worst_drop) == (0.0, 0.0)
    assert all(trial.measured.drop >= 0.0 for trial in result.outcome.trials)


def test_the_choice_is_the_same_twice(digits: tuple[ArraySamples, ArraySamples]) -> None:
    parts = split_samples(*digits)
    first, second = (
        find_recipe(request(parts, SearchBudgets(drop=0.1), precisions=("int8", "int4"), most=8)) for _ in range(2)
    )
    assert (first.recipe, first.quantized.data) == (second.recipe, second.quantized.data)
    assert first.candidates == second.candidates


def test_relative_error_is_a_share_of_the_spread() -> None:
    wanted = np.asarray([[0.0], [2.0], [4.0]])
    assert relative_error(wanted, wanted) == 0.0
    assert relative_error(wanted + 1.0, wanted) == pytest.approx(3.0 / 8.0)
    assert relative_error(np.zeros((2, 1)), np.zeros((2, 1))) == 0.0


def test_a_search_that_time_ended_says_so_in_the_evidence_and_in_its_refusal(
    digits: tuple[ArraySamples, ArraySamples],
) -> None:
    parts = split_samples(*digits)
    result = find_recipe(request(parts, SearchBudgets(model_bytes=1000), limit_s=3.0))
    [said] = result.remarks
    assert said.startswith("the search was ended by its time limit of 3 s, after 1 candidates: ")
    refusal = result.refusal()
    assert refusal is not None
    assert refusal.message.startswith("none of 1 candidates that there was time for keeps all budgets; ")
    unhurried = find_recipe(request(parts, SearchBudgets(model_bytes=10**6), precisions=("int8",), most=1))
    assert unhurried.remarks == ()


@pytest.mark.parametrize(
    ("budgets", "what"), [(SearchBudgets(arena_bytes=64), "arena"), (SearchBudgets(latency_us=10.0), "latency")]
)
def test_a_budget_that_nothing_can_be_compared_with_is_refused(
    digits: tuple[ArraySamples, ArraySamples], budgets: SearchBudgets, what: str
) -> None:
    with pytest.raises(InputError) as refused:
        find_recipe(request(split_samples(*digits), budgets, precisions=("int8",)))
    assert refused.value.message == (
        f"the {what} has a budget, and what a model needs of it cannot be predicted for this board"
    )


def test_what_recipes_share_is_remembered_and_changes_no_byte(digits: tuple[ArraySamples, ArraySamples]) -> None:
    model = (DIGITS / "v1_float32.tflite").read_bytes()
    observed = observe(model, digits[0], Preprocessing())
    dense = observed.layers[-1].output
    recipes = [
        Recipe(precision="int8", ranges="percentile", conditioning=("bias-corrected",), rounding="gptq"),
        Recipe(precision="int8", ranges="mse", conditioning=("bias-corrected",)),
        Recipe(precision="mixed", layers={dense: "int4"}, conditioning=("bias-corrected",), rounding="gptq"),
        Recipe(precision="mixed", layers={dense: "float32"}, ranges="percentile", rounding="gptq"),
    ]
    together = [quantize_observed(observed, recipe).data for recipe in recipes]
    assert together == [quantize(model, recipe, digits[0], Preprocessing()).data for recipe in recipes]
    assert len(set(together)) == 4
