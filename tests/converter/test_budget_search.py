# SPDX-License-Identifier: Apache-2.0
"""The search itself, on a made-up model whose every candidate's size and error is known."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from converter.core.recipe import Recipe
from converter.core.search.budgets import (
    Choices,
    Found,
    Measured,
    Nearest,
    SearchBudgets,
    breaches,
    excess,
    search,
)
from converter.core.search.sensitivity import Sensitivity, cheapest_first, most_helpful_first
from edgefleet.contracts.errors import UnsupportedModelError

START = Recipe(precision="int8", conditioning=("none", "equalized"))
BITS = {"int8": 8, "int4": 4, "int16x8": 8, "float32": 32, "float16": 16, "dynamic-int8": 8}
#: Weights of each layer, and the distance that 4 bits add there; 8 bits add a tenth of it.
LAYERS = {"conv_a": (8000, 0.010), "conv_b": (4000, 0.001), "dense": (2000, 0.002), "wise": (1000, 0.5)}
EVERYTHING = Choices(
    precisions=("int8", "int4", "int16x8", "float32", "mixed"),
    layers=tuple((name, weights) for name, (weights, _) in LAYERS.items()),
    four_bit_layers=frozenset({"conv_a", "conv_b", "dense"}),
)


@dataclass
class MadeUpModel:
    """Distances of layers add up; the drop is the distance, and its worst end a point more where it is not 0."""

    doubt: float = 0.01
    refused: tuple[str, ...] = ()
    asked: list[Recipe] = field(default_factory=list)

    def measure(self, recipe: Recipe) -> Measured:
        self.asked.append(recipe)
        if recipe.precision in self.refused:
            raise UnsupportedModelError(f"no {recipe.precision} here", hint="none")
        size, distance = 500, 0.0
        for name, (weights, harm) in LAYERS.items():
            base = "int8" if recipe.precision == "mixed" else recipe.precision
            if base == "int4" and name not in EVERYTHING.four_bit_layers:
                base = "int8"
            precision = recipe.layers.get(name, base)
            size += weights * BITS[precision] // 8
            distance += {"int4": harm, "int8": harm / 10}.get(precision, 0.0)
        if recipe.rounding == "gptq":
            distance *= 0.9
        distance *= {"percentile": 0.95, "mse": 1.2, "entropy": 3.0}.get(recipe.ranges, 1.0)
        settled = replace(recipe, conditioning=("equalized",))
        return Measured(
            recipe=settled, model_bytes=size, drop=distance, worst_drop=distance + self.doubt, distance=distance
        )


def test_with_room_to_spare_the_smallest_that_keeps_the_drop_wins() -> None:
    model = MadeUpModel()
    found = search(model.measure, SearchBudgets(drop=0.07), START, choices=EVERYTHING, most=100)
    assert isinstance(found, Found)
    chosen = found.chosen.measured
    assert chosen.recipe.layers == {"conv_a": "int4", "conv_b": "int4", "dense": "int4"}
    assert chosen.model_bytes == 500 + 7000 + 1000
    assert (chosen.recipe.rounding, chosen.recipe.ranges) == ("gptq", "percentile")
    assert min(t.measured.model_bytes for t in found.trials if t.measured.worst_drop <= 0.07) == chosen.model_bytes


def test_a_layer_that_breaks_the_drop_is_left_and_the_next_is_tried() -> None:
    model = MadeUpModel(doubt=0.0)  # int8 with the best ranges and rounding has 0.0439
    found = search(model.measure, SearchBudgets(drop=0.0465), START, choices=EVERYTHING, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.layers == {"conv_b": "int4", "dense": "int4"}
    assert found.chosen.title == "int8, layers 2, 3 in int4"


def test_the_gate_is_on_the_unfavourable_end() -> None:
    budgets = SearchBudgets(drop=0.05)
    lucky = search(MadeUpModel(doubt=0.0).measure, budgets, START, choices=EVERYTHING, most=100)
    doubtful = search(MadeUpModel(doubt=0.049).measure, budgets, START, choices=EVERYTHING, most=100)
    assert isinstance(lucky, Found)
    assert isinstance(doubtful, Found)
    assert lucky.chosen.measured.model_bytes < doubtful.chosen.measured.model_bytes
    assert doubtful.chosen.measured.worst_drop <= 0.05


def test_without_a_drop_budget_the_closest_that_fits_wins() -> None:
    found = search(MadeUpModel().measure, SearchBudgets(model_bytes=16_000), START, choices=EVERYTHING, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.precision == "int16x8"
    size = search(MadeUpModel().measure, SearchBudgets(model_bytes=15_000), START, choices=EVERYTHING, most=100)
    assert isinstance(size, Found)
    assert size.chosen.measured.recipe.layers == {"conv_b": "int4"}


def test_layers_go_up_again_where_int8_is_not_accurate_enough() -> None:
    choices = Choices(precisions=("int8", "mixed"), layers=EVERYTHING.layers)
    found = search(MadeUpModel(doubt=0.0).measure, SearchBudgets(drop=0.01), START, choices=choices, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.layers == {"wise": "float32"}


def test_where_nothing_fits_the_nearest_is_named_with_what_it_breaks() -> None:
    choices = Choices(precisions=("int8",), layers=EVERYTHING.layers)
    verdict = search(MadeUpModel().measure, SearchBudgets(model_bytes=15_000), START, choices=choices, most=100)
    assert isinstance(verdict, Nearest)
    assert [str(breach) for breach in verdict.broken] == [
        "the model's size is 15500 bytes, 500 bytes over the budget of 15000 bytes"
    ]


def test_of_two_broken_budgets_the_lesser_breach_is_nearest() -> None:
    one = Measured(recipe=START, model_bytes=110, latency_us=1.0, drop=0.0, worst_drop=0.0, distance=0.0)
    budgets = SearchBudgets(model_bytes=100, arena_bytes=10, latency_us=2.0, drop=0.01)
    assert excess(one, budgets) == pytest.approx(0.1)
    other = Measured(recipe=START, model_bytes=90, arena_bytes=30, drop=0.02, worst_drop=0.025, distance=0.0)
    assert excess(other, budgets) == pytest.approx(2.0 + 1.5)
    assert [str(breach) for breach in breaches(other, budgets)] == [
        "the arena is 30 bytes, 20 bytes over the budget of 10 bytes",
        "the drop, at the unfavourable end of its interval, is 2.50 points, 1.50 points over the budget of 1.00 points",
    ]


def test_no_more_is_measured_than_allowed_and_nothing_twice() -> None:
    for most in (1, 5, 12):
        model = MadeUpModel()
        search(model.measure, SearchBudgets(drop=0.07), START, choices=EVERYTHING, most=most)
        assert len(model.asked) <= most
    model = MadeUpModel()
    search(model.measure, SearchBudgets(drop=0.07), START, choices=EVERYTHING, most=100, gauge=MadeUpModel().measure)
    asked = [str(recipe) for recipe in model.asked]
    assert len(set(asked)) == len(asked)


def test_time_ends_the_search_with_the_best_so_far_after_one_measurement_at_least() -> None:
    model = MadeUpModel()
    late: Iterator[bool] = iter([True, True, False])
    verdict = search(
        model.measure, SearchBudgets(drop=0.2), START, choices=EVERYTHING, most=100, in_time=lambda: next(late, False)
    )
    assert isinstance(verdict, Found)
    assert len(verdict.trials) == 2
    model = MadeUpModel()
    search(model.measure, SearchBudgets(drop=0.2), START, choices=EVERYTHING, most=100, in_time=lambda: False)
    assert len(model.asked) == 1


def test_larger_precisions_are_tried_only_where_nothing_smaller_fits() -> None:
    model = MadeUpModel(doubt=0.0)
    choices = Choices(precisions=("int8", "float16", "float32"), layers=EVERYTHING.layers)
    found = search(model.measure, SearchBudgets(drop=0.06), START, choices=choices, most=100)
    assert isinstance(found, Found)
    assert {recipe.precision for recipe in model.asked} == {"int8"}
    found = search(model.measure, SearchBudgets(drop=0.0), START, choices=choices, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.precision == "float16"


def test_the_gauge_measures_single_layers_and_is_no_candidate() -> None:
    model, quick = MadeUpModel(), MadeUpModel()
    found = search(model.measure, SearchBudgets(drop=0.07), START, choices=EVERYTHING, most=100, gauge=quick.measure)
    assert {len(recipe.layers) for recipe in quick.asked} == {0, 1}
    assert {recipe.rounding for recipe in quick.asked if recipe.layers} == {"nearest"}
    assert {recipe.ranges for recipe in quick.asked} == {"minmax", "percentile", "mse", "entropy"}
    assert {recipe.ranges for recipe in model.asked} == {"minmax", "percentile"}
    assert len(found.trials) == len(model.asked)


def test_refused_recipes_are_told_and_the_rest_goes_on() -> None:
    model = MadeUpModel(refused=("int16x8", "int4", "mixed"))
    found = search(model.measure, SearchBudgets(drop=0.07), START, choices=EVERYTHING, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.precision == "int8"
    assert set(found.refused) == {"no int4 here", "no mixed here"}


def test_where_all_is_refused_the_first_refusal_is_raised() -> None:
    model = MadeUpModel(refused=("int8",))
    with pytest.raises(UnsupportedModelError) as refused:
        search(model.measure, SearchBudgets(), START, choices=Choices(precisions=("int8",)), most=100)
    assert refused.value.message == "no int8 here"


def test_layers_are_ranked_by_harm_for_a_byte() -> None:
    found = [
        Sensitivity("b", "int4", 100, 0.2),
        Sensitivity("a", "int4", 100, 0.2),
        Sensitivity("big", "int4", 1000, 0.5),
        Sensitivity("free", "int4", 10, -0.1),
        Sensitivity("none", "int4", 0, -0.1),
    ]
    assert [one.layer for one in cheapest_first(found)] == ["free", "big", "a", "b"]
    helpful = most_helpful_first([*found, Sensitivity("up", "float32", -300, -6.0)])
    assert [one.layer for one in helpful] == ["free", "none", "up"]
