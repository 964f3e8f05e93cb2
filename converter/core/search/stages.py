# SPDX-License-Identifier: Apache-2.0
"""Search for the recipe whose model keeps all budgets: whole precisions first, then sets of layers.

1. The whole model in 8 bits and in 4. Of the 8-bit one then the ranges and the rounding that come closest to float.
2. Where 8 bits keep the accuracy budget, and the board has 4-bit weights: each layer alone in 4 bits (its
   *sensitivity*) tells which sets of layers save most for the least error; of these, which are in order, the largest
   that keeps the budget is found by halving.
3. Where 8 bits do not keep it: activations in 16 bits, which costs few bytes; then sets of layers in 16 bits or float,
   the fewest bytes that keep the budget, by halving again.
4. Where nothing fits so far, or the closest is wanted: the larger precisions for the whole model.

With a budget on the accuracy the smallest model that keeps all budgets wins, without one the closest to float.
The accuracy budget is compared with the unfavourable end of the drop's confidence interval, so that luck on the
search samples is no argument; then with the drop on samples that the search never saw, and where that is larger the
next candidate follows. Which candidates there are does not depend on the accuracy budget, and halving never ends
earlier under a looser one, so that a looser budget does not give a larger model.

The number of measurements is bounded; so is the time, by a question that the caller answers: whether that question
ended a search is part of its verdict. A recipe that was found is saved and replayed, so that a bundle never depends on
the time again.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from converter.core.recipe import LayerPrecision, RangeMethod, Recipe, recipe_sha256
from converter.core.search.budgets import (
    Choices,
    Found,
    Measure,
    Measured,
    Nearest,
    SearchBudgets,
    Trial,
    breaches,
    excess,
)
from converter.core.search.sensitivity import LayerSet, Sensitivity, sets_to_lower, sets_to_raise
from edgefleet.contracts.errors import RefusedError
from edgefleet.contracts.manifest import Precision

_SMALL: tuple[Precision, ...] = ("int8", "int4")
_SIXTEEN: tuple[Precision, ...] = ("int16x8",)
#: By size, the smallest first.
_LARGE: tuple[Precision, ...] = ("int16x8", "dynamic-int8", "float16", "float32")
_OTHER_RANGES: tuple[RangeMethod, ...] = ("percentile", "mse", "entropy")
_MOST_NAMED = 6
#: A layer that saves less than this share of the model is not worth a measurement.
_LEAST_SAVING = 0.01
#: How many measurements are left for sets of layers once single ones are gauged.
_MOST_SETS = 10
#: Two samples of 200 are one point, whatever the last bits say.
_ROUNDING = 1e-9


def search(
    measure: Measure,
    budgets: SearchBudgets,
    start: Recipe,
    *,
    choices: Choices,
    most: int,
    in_time: Callable[[], bool] = lambda: True,
    gauge: Measure | None = None,
    unseen_drop: Callable[[Measured], float] = lambda measured: measured.drop,
) -> Found | Nearest:
    """Try recipes derived from ``start``, at most ``most`` of them and while ``in_time()``, and return the verdict.

    ``gauge`` measures roughly and quickly, for the distance only: ranges, rounding, the sensitivity of single layers.
    What it measured is no candidate: of many that are tried on the same samples, some look good by luck.
    ``unseen_drop`` tells the drop on samples that decide nothing else.

    Raises:
        RefusedError: not one recipe could be measured; it is the first refusal.
    """
    run = _Run(measure, gauge or measure, unseen_drop, budgets, start, choices, most, in_time)
    run.try_whole(_SMALL)
    base = run.closest_of_eight_bits()
    if budgets.drop is None:
        run.try_whole(_LARGE)
        if base is not None and breaches(base.measured, budgets):
            run.lower(base)
        return run.verdict()
    if base is not None and any(run.accurate(t) for t in run.trials if t.measured.recipe.precision == "int8"):
        run.lower(base)
    if not run.settled():
        run.try_whole(_SIXTEEN)
        if base is not None:
            run.raise_layers(base)
    for precision in _LARGE:
        if not run.settled():
            run.try_whole([precision])
    run.try_dynamic_if_smaller()
    return run.verdict()


@dataclass
class _Run:
    """The state of one search."""

    measure: Measure
    gauge: Measure
    unseen_drop: Callable[[Measured], float]
    budgets: SearchBudgets
    start: Recipe
    choices: Choices
    most: int
    in_time: Callable[[], bool]
    trials: list[Trial] = field(default_factory=list)
    known: dict[str, Trial] = field(default_factory=dict)
    refusals: list[RefusedError] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    gauged: int = 0
    hurried: bool = False

    def try_recipe(self, title: str, recipe: Recipe) -> Trial | None:
        """Measure a recipe once; None where it is refused, or time or number of measurements is used up."""
        asked = recipe_sha256(recipe)
        if asked in self.known:
            return self.known[asked]
        if asked in self.asked or self._used_up():
            return None
        self.asked.add(asked)
        try:
            trial = Trial(title, self.measure(recipe))
        except RefusedError as refused:
            self.refusals.append(refused)
            return None
        self.trials.append(trial)
        self.known[asked] = self.known[recipe_sha256(trial.measured.recipe)] = trial
        return trial

    def try_whole(self, precisions: Iterable[Precision]) -> None:
        """Measure each of these precisions that the board runs, for the whole model."""
        for precision in precisions:
            if precision in self.choices.precisions:
                self.try_recipe(f"{precision} throughout", self._whole(precision))

    def try_dynamic_if_smaller(self) -> None:
        """Measure 8-bit weights under float activations where they take fewer bytes than what was found."""
        sizes = [trial.measured.model_bytes for trial in self.fitting() if self.confirmed(trial)]
        if not sizes or "dynamic-int8" not in self.choices.precisions:
            return
        found = self._gauged(self._whole("dynamic-int8"))
        if found is not None and found.model_bytes < min(sizes):
            self.try_whole(["dynamic-int8"])

    def closest_of_eight_bits(self) -> Trial | None:
        """Gauge other ranges and another rounding; return the 8-bit model that comes closest to float."""
        if "int8" not in self.choices.precisions:
            return None
        plain = self.try_recipe("int8 throughout", self._whole("int8"))
        if plain is None:
            return None
        closest, title = self._closest_variant(plain.measured.recipe)
        return min([plain, self.try_recipe(title, closest) or plain], key=_distance)

    def lower(self, base: Trial) -> None:
        """Take sets of layers to 4 bits.

        With a budget on the accuracy, the set that saves most and keeps it; without one, the first that fits.
        """
        if "int4" not in self.choices.precisions:
            return
        worth = _LEAST_SAVING * base.measured.model_bytes
        layers = [n for n, weights in self._largest() if n in self.choices.four_bit_layers and weights / 2 >= worth]
        sets = sets_to_lower(self._sensitivities(base, layers, "int4"))
        best = replace(base.measured.recipe, rounding="gptq")

        def tried(number: int) -> Trial | None:
            return self._try_set(best, sets[number], "int4")

        if self.budgets.drop is None:
            self._first(len(sets), lambda number: self._fits(tried(number)))
            return
        last = self._last(len(sets), lambda number: self._is_accurate(tried(number)))
        while last >= 0 and not self._is_confirmed(tried(last)):
            last -= 1

    def raise_layers(self, base: Trial) -> None:
        """Give sets of layers of the closest 8-bit model more precision: the fewest bytes that keep the accuracy."""
        if "mixed" not in self.choices.precisions:
            return
        higher: LayerPrecision = "int16x8" if "int16x8" in self.choices.precisions else "float32"
        sets = sets_to_raise(self._sensitivities(base, [name for name, _ in self._largest()], higher))

        def tried(number: int) -> Trial | None:
            return self._try_set(base.measured.recipe, sets[number], higher)

        first = self._first(len(sets), lambda number: self._is_accurate(tried(number)))
        while first < len(sets) and not self._is_confirmed(tried(first)):
            first += 1

    def accurate(self, trial: Trial) -> bool:
        """Tell whether a trial keeps the accuracy budget on the search samples."""
        return self.budgets.drop is None or trial.measured.worst_drop <= self.budgets.drop

    def confirmed(self, trial: Trial) -> bool:
        """Tell whether samples that the search never saw show no larger drop than allowed."""
        return self.budgets.drop is None or self.unseen_drop(trial.measured) <= self.budgets.drop + _ROUNDING

    def fitting(self) -> list[Trial]:
        """Return the trials that keep all budgets on the search samples."""
        return [trial for trial in self.trials if not breaches(trial.measured, self.budgets)]

    def settled(self) -> bool:
        """Tell whether a trial keeps all budgets, on unseen samples as well."""
        return any(self.confirmed(trial) for trial in self.fitting())

    def verdict(self) -> Found | Nearest:
        """Return the best of those that fit, or the nearest.

        Of those that fit, unseen samples must confirm the drop; where they confirm none, it is the closest to that.
        """
        if not self.trials:
            raise self.refusals[0]
        trials = tuple(self.trials)
        refused = tuple(refusal.message for refusal in self.refusals)
        fitting = sorted(self.fitting(), key=self._rank)
        if fitting:
            best = next((trial for trial in fitting if self.confirmed(trial)), None)
            chosen = best or min(fitting, key=lambda trial: self.unseen_drop(trial.measured))
            return Found(chosen, trials, refused, self.hurried)
        nearest = min(trials, key=lambda trial: (_rounded(excess(trial.measured, self.budgets)), *self._rank(trial)))
        return Nearest(nearest, breaches(nearest.measured, self.budgets), trials, refused, self.hurried)

    def _whole(self, precision: Precision) -> Recipe:
        rounding = "gptq" if precision == "int4" else self.start.rounding
        return replace(self.start, precision=precision, layers={}, rounding=rounding)

    def _closest_variant(self, plain: Recipe) -> tuple[Recipe, str]:
        """Return the recipe closest to float among other ranges, then with other rounding, and what it is called."""
        best, title, least = plain, "int8 throughout", math.inf
        variants = [(plain, title)]
        variants += [(replace(plain, ranges=ranges), f"int8, ranges by {ranges}") for ranges in _OTHER_RANGES]
        while variants:
            for recipe, called in variants:
                measured = self._gauged(recipe)
                if measured is not None and _rounded(measured.distance) < least:
                    best, title, least = measured.recipe, called, _rounded(measured.distance)
            rounded = replace(best, rounding="gptq")
            variants = [] if rounded in (variants[-1][0], best) else [(rounded, f"{title}, weights by gptq")]
        return best, title

    def _try_set(self, recipe: Recipe, chosen: LayerSet, precision: LayerPrecision) -> Trial | None:
        layers: dict[str, LayerPrecision] = dict.fromkeys(chosen.layers, precision)
        return self.try_recipe(self._titled(layers, precision), _with_layers(recipe, layers))

    def _is_accurate(self, trial: Trial | None) -> bool:
        return trial is not None and self.accurate(trial)

    def _fits(self, trial: Trial | None) -> bool:
        return trial is not None and not breaches(trial.measured, self.budgets)

    def _is_confirmed(self, trial: Trial | None) -> bool:
        """Tell whether a trial keeps the accuracy budget; nothing more is to be learned once time is used up."""
        if trial is None:
            return self._used_up()
        return self.accurate(trial) and self.confirmed(trial)

    def _last(self, count: int, good: Callable[[int], bool]) -> int:
        """Return the last number below ``count`` that halving finds to be good; -1 where it finds none."""
        low, high = -1, count
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if good(middle) else (low, middle)
        return low

    def _first(self, count: int, good: Callable[[int], bool]) -> int:
        """Return the first number that halving finds to be good; ``count`` where even the last is not."""
        if not count or not good(count - 1):
            return count
        low, high = -1, count - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if good(middle) else (middle, high)
        return high

    def _titled(self, layers: Iterable[str], precision: LayerPrecision) -> str:
        """Name a candidate by its layers' numbers, in the order of execution."""
        chosen = set(layers)
        numbers = [place + 1 for place, (name, _) in enumerate(self.choices.layers) if name in chosen]
        named = ", ".join(map(str, numbers)) if len(numbers) <= _MOST_NAMED else f"{len(numbers)} of them"
        return f"int8, layer{'s' * (len(numbers) > 1)} {named} in {precision}"

    def _rank(self, trial: Trial) -> tuple[float, float]:
        size, distance = float(trial.measured.model_bytes), _distance(trial)
        return (distance, size) if self.budgets.drop is None else (size, distance)

    def _largest(self) -> Sequence[tuple[str, int]]:
        """Return the largest layers, as many as measurements are left for, with some for sets of them."""
        most = max(self.most - len(self.asked) - self.gauged - _MOST_SETS, 1)
        return sorted(self.choices.layers, key=lambda layer: (-layer[1], layer[0]))[:most]

    def _used_up(self) -> bool:
        if len(self.asked) + self.gauged >= self.most:
            return True
        if self.trials and not self.hurried and not self.in_time():
            self.hurried = True
        return self.hurried

    def _sensitivities(self, base: Trial, layers: Iterable[str], precision: LayerPrecision) -> list[Sensitivity]:
        """Measure each layer alone in another precision, weights rounded to the nearest step, which is quick."""
        plain = replace(base.measured.recipe, rounding="nearest")
        before = self._gauged(plain)
        alone = {name: self._gauged(_with_layers(plain, {name: precision})) for name in layers if before is not None}
        return [
            Sensitivity(
                name,
                precision,
                before.model_bytes - after.model_bytes,
                _rounded(after.distance) ** 2 - _rounded(before.distance) ** 2,
            )
            for name, after in alone.items()
            if before is not None and after is not None
        ]

    def _gauged(self, recipe: Recipe) -> Measured | None:
        if self._used_up():
            return None
        self.gauged += 1
        try:
            return self.gauge(recipe)
        except RefusedError as refused:
            self.refusals.append(refused)
            return None


def _with_layers(recipe: Recipe, layers: dict[str, LayerPrecision]) -> Recipe:
    return replace(recipe, precision="mixed", layers=dict(sorted(layers.items())))


def _distance(trial: Trial) -> float:
    return _rounded(trial.measured.distance)


def _rounded(value: float) -> float:
    """Return 12 digits: what differs behind them differs between processors."""
    return float(f"{value:.11e}")
