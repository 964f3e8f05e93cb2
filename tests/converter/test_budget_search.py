# SPDX-License-Identifier: Apache-2.0
"""The search itself, on a made-up model whose every candidate's size and error is known."""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from converter.core.recipe import Recipe, recipe_sha256
from converter.core.search.budgets import (
    Choices,
    Found,
    Measured,
    Nearest,
    SearchBudgets,
    breaches,
    excess,
)
from converter.core.search.sensitivity import LayerSet, Sensitivity, sets_to_lower, sets_to_raise
from converter.core.search.stages import search
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
    bytes_of_dynamic: int = 0
    refused: tuple[str, ...] = ()
    asked: list[Recipe] = field(default_factory=list)

    def measure(self, recipe: Recipe) -> Measured:
        self.asked.append(recipe)
        if recipe.precision in self.refused:
            raise UnsupportedModelError(f"no {recipe.precision} here", hint="none")
        size, distance = 500 + (self.bytes_of_dynamic if recipe.precision == "dynamic-int8" else 0), 0.0
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


def test_sets_of_layers_save_ever_more_for_the_least_error() -> None:
    found = [
        Sensitivity("free", "int4", 10, -0.1),
        Sensitivity("cheap", "int4", 1000, 0.1),
        Sensitivity("dear", "int4", 500, 0.4),
        Sensitivity("bad", "int4", 400, 0.9),
        Sensitivity("none", "int4", 0, -0.1),
    ]
    assert sets_to_lower(found) == (
        LayerSet(("free",), 10, 0.0),
        LayerSet(("cheap", "free"), 1010, 0.1),
        LayerSet(("cheap", "dear", "free"), 1510, 0.5),
        LayerSet(("bad", "cheap", "dear", "free"), 1910, 1.4),
    )
    assert (
        sets_to_raise([*found, Sensitivity("up", "float32", -300, -6.0)])
        == (
            LayerSet(("none",), 0, -0.1),
            LayerSet(("free", "none"), 0, -0.2),
            LayerSet(("free", "none", "up"), 300, -6.2),
        )[1:]
    )


@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(0.01, 1.0)), min_size=1, max_size=7))
def test_sets_are_in_order_and_no_set_beats_them(figures: list[tuple[int, float]]) -> None:
    sets = sets_to_lower(Sensitivity(f"layer {n}", "int4", *figure) for n, figure in enumerate(figures))
    assert [one.changed_bytes for one in sets] == sorted({one.changed_bytes for one in sets})
    assert [one.error for one in sets] == sorted({one.error for one in sets})
    for chosen in itertools.product((0, 1), repeat=len(figures)):
        saved, error = (sum(f[part] for f, taken in zip(figures, chosen, strict=True) if taken) for part in (0, 1))
        assert not any(chosen) or any(s.changed_bytes >= saved and s.error <= error + 1e-9 for s in sets)


def test_of_very_many_sets_some_are_left_out() -> None:
    found = [Sensitivity(f"layer {n:02}", "int4", 2**n + 1000, 3.0**n) for n in range(20)]
    sets = sets_to_lower(found)
    assert 100 < len(sets) <= 257
    assert sets[-1].changed_bytes == sum(one.saved_bytes for one in found)


@pytest.mark.parametrize("doubt", [0.0, 0.01, 0.03])
def test_a_looser_budget_never_gives_a_larger_model(doubt: float) -> None:
    sizes = []
    for drop in [0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.0465, 0.05, 0.055, 0.06, 0.07, 0.1, 0.5, 0.6]:
        found = search(MadeUpModel(doubt=doubt).measure, SearchBudgets(drop=drop), START, choices=EVERYTHING, most=100)
        sizes.append(found.chosen.measured.model_bytes if isinstance(found, Found) else 10**9)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) >= 3


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_looser_budget_never_gives_a_larger_model_whatever_the_samples_say(data: st.DataObject) -> None:
    """The drop of each candidate is any number, on search samples and on unseen ones."""
    drops = st.floats(0.0, 1.0)
    seen: dict[str, tuple[float, float]] = {}

    def told(recipe: Recipe) -> tuple[float, float]:
        key = recipe_sha256(replace(recipe, conditioning=("equalized",)))
        if key not in seen:
            seen[key] = data.draw(drops), data.draw(drops)
        return seen[key]

    model = MadeUpModel()

    def measure(recipe: Recipe) -> Measured:
        return replace_drop(model.measure(recipe), told(recipe)[0])

    def replace_drop(measured: Measured, drop: float) -> Measured:
        return dataclasses.replace(measured, drop=drop, worst_drop=drop)

    sizes = []
    for drop in (0.1, 0.3, 0.5, 0.9):
        verdict = search(
            measure,
            SearchBudgets(drop=drop),
            START,
            choices=EVERYTHING,
            most=100,
            unseen_drop=lambda measured: told(measured.recipe)[1],
        )
        kept = isinstance(verdict, Found) and told(verdict.chosen.measured.recipe)[1] <= drop + 1e-9
        sizes.append(verdict.chosen.measured.model_bytes if kept and isinstance(verdict, Found) else 10**9)
    assert sizes == sorted(sizes, reverse=True)


def test_where_unseen_samples_say_no_the_next_candidate_follows() -> None:
    model = MadeUpModel()
    budgets = SearchBudgets(drop=0.07)
    lucky = search(model.measure, budgets, START, choices=EVERYTHING, most=100)
    assert isinstance(lucky, Found)
    taken_back = lucky.chosen.measured.model_bytes
    careful = search(
        model.measure,
        budgets,
        START,
        choices=EVERYTHING,
        most=100,
        unseen_drop=lambda measured: 0.08 if measured.model_bytes <= taken_back else 0.06,
    )
    assert isinstance(careful, Found)
    assert careful.chosen.measured.model_bytes > taken_back
    assert careful.chosen.measured.recipe.layers  # and not all the way back to 8 bits


def test_that_time_ran_out_is_part_of_the_verdict() -> None:
    late: Iterator[bool] = iter([True, True])
    hurried = search(
        MadeUpModel().measure,
        SearchBudgets(drop=0.2),
        START,
        choices=EVERYTHING,
        most=100,
        in_time=lambda: next(late, False),
    )
    assert hurried.hurried
    assert not search(MadeUpModel().measure, SearchBudgets(drop=0.2), START, choices=EVERYTHING, most=100).hurried


def test_float_activations_are_taken_where_they_make_the_model_smaller() -> None:
    choices = dataclasses.replace(EVERYTHING, precisions=("int8", "dynamic-int8"))
    small = MadeUpModel(bytes_of_dynamic=-300)
    found = search(small.measure, SearchBudgets(drop=0.07), START, choices=choices, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.precision == "dynamic-int8"
    found = search(MadeUpModel().measure, SearchBudgets(drop=0.07), START, choices=choices, most=100)
    assert isinstance(found, Found)
    assert found.chosen.measured.recipe.precision == "int8"
