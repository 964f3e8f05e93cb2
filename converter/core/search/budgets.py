# SPDX-License-Identifier: Apache-2.0
"""Search for the recipe whose model keeps all budgets: whole precisions first, then layer by layer.

1. The whole model in 8 bits and in 4; where neither fits, with activations in 16 bits, which costs few bytes. Of the
   8-bit one then the ranges and the rounding that come closest to the float model.
2. Where the 8-bit model keeps the accuracy budget, and the board has 4-bit weights: each layer alone in 4 bits (its
   *sensitivity*), then one after the other, the least harm for a byte first; a layer that breaks the budget is left at
   8 bits.
3. Where nothing fits so far, and the board runs mixed precisions: single layers in 16 bits or float, the most help for
   a byte first, until one fits.
4. Where nothing fits so far, or the closest is wanted: the larger precisions for the whole model.

With a budget on the accuracy the smallest model that keeps all budgets wins, without one the closest to float.
The accuracy budget is compared with the unfavourable end of the drop's confidence interval, so that luck on the
search samples is no argument. The number of measurements is bounded; so is the time, by a question that the caller
answers. A recipe that was found is saved and replayed, so that a bundle never depends on the time again.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from converter.core.recipe import LayerPrecision, RangeMethod, Recipe, recipe_sha256
from converter.core.search.sensitivity import Sensitivity, cheapest_first, most_helpful_first
from edgefleet.contracts.errors import RefusedError
from edgefleet.contracts.manifest import Precision

#: What is small comes first; the rest is larger than any mix of these.
_SMALL: tuple[Precision, ...] = ("int8", "int4")
_SIXTEEN: tuple[Precision, ...] = ("int16x8",)
_LARGE: tuple[Precision, ...] = ("int16x8", "dynamic-int8", "float16", "float32")
_OTHER_RANGES: tuple[RangeMethod, ...] = ("percentile", "mse", "entropy")
#: What a drop budget of 0 counts as where budgets broken are compared.
_SMALLEST_DROP = 0.001
_MOST_NAMED = 6
#: A layer that saves less than this share of the model is not worth a measurement.
_LEAST_SAVING = 0.01


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One recipe's model on the search samples.

    ``drop`` is float minus model of the metric (negative where the model is better), ``worst_drop`` the unfavourable
    end of its confidence interval; ``distance`` is the mean absolute difference of outputs, which tells two models
    apart where their metrics are equal. ``recipe`` is the measured one with every open choice made.
    """

    recipe: Recipe
    model_bytes: int
    arena_bytes: int | None = None
    latency_us: float | None = None
    drop: float
    worst_drop: float
    distance: float


Measure = Callable[[Recipe], Measured]


@dataclass(frozen=True, kw_only=True)
class SearchBudgets:
    """Limits; None is no limit. ``drop`` is the largest drop of the metric, as a share."""

    model_bytes: int | None = None
    arena_bytes: int | None = None
    latency_us: float | None = None
    drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the board runs, and the layers that may have a precision of their own, with their number of weights."""

    precisions: tuple[Precision, ...]
    layers: tuple[tuple[str, int], ...] = ()
    four_bit_layers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Trial:
    """One measured candidate, and what it is called."""

    title: str
    measured: Measured


@dataclass(frozen=True)
class Breach:
    """A budget that is broken: what was allowed, what was got, both with their unit."""

    budget: str
    allowed: str
    got: str
    by: str

    def __str__(self) -> str:
        return f"{self.budget} is {self.got}, {self.by} over the budget of {self.allowed}"


@dataclass(frozen=True)
class Found:
    """The candidate that keeps all budgets; all trials, and what was refused on the way, in words."""

    chosen: Trial
    trials: tuple[Trial, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nearest:
    """No candidate keeps all budgets: the one that breaks them least, and how it does."""

    nearest: Trial
    broken: tuple[Breach, ...]
    trials: tuple[Trial, ...]
    refused: tuple[str, ...] = ()


def search(
    measure: Measure,
    budgets: SearchBudgets,
    start: Recipe,
    *,
    choices: Choices,
    most: int,
    in_time: Callable[[], bool] = lambda: True,
    gauge: Measure | None = None,
) -> Found | Nearest:
    """Try recipes derived from ``start``, at most ``most`` of them and while ``in_time()``, and return the verdict.

    ``gauge`` measures roughly and quickly, for the distance only: ranges, rounding, the sensitivity of single layers.
    What it measured is no candidate: of many that are tried on the same samples, some look good by luck.

    Raises:
        RefusedError: not one recipe could be measured; it is the first refusal.
    """
    run = _Run(measure, gauge or measure, budgets, start, choices, most, in_time)
    run.try_whole(_SMALL)
    if not run.fitting():
        run.try_whole(_SIXTEEN)
    base = run.best_of_eight_bits()
    if base is not None and not run.accurate(base):
        if not run.fitting():
            run.raise_layers(base)
    elif base is not None and run.wants_less(base):
        run.lower(base)
    if budgets.drop is None or not run.fitting():
        run.try_whole(_LARGE)
    return run.verdict()


def breaches(measured: Measured, budgets: SearchBudgets) -> tuple[Breach, ...]:
    """Return the budgets that a candidate breaks."""
    pairs = (
        ("the model's size", measured.model_bytes, budgets.model_bytes, _as_bytes),
        ("the arena", measured.arena_bytes, budgets.arena_bytes, _as_bytes),
        ("the latency", measured.latency_us, budgets.latency_us, _as_us),
        ("the drop, at the unfavourable end of its interval,", measured.worst_drop, budgets.drop, _as_points),
    )
    return tuple(
        Breach(budget, said(allowed), said(got), said(got - allowed))
        for budget, got, allowed, said in pairs
        if allowed is not None and got is not None and got > allowed
    )


def excess(measured: Measured, budgets: SearchBudgets) -> float:
    """Return how far budgets are broken, summed up as shares of each budget; 0 where all are kept."""
    pairs = (
        (measured.model_bytes, budgets.model_bytes, 1.0),
        (measured.arena_bytes, budgets.arena_bytes, 1.0),
        (measured.latency_us, budgets.latency_us, 1.0),
        (measured.worst_drop, budgets.drop, _SMALLEST_DROP),
    )
    return math.fsum(
        max(got - allowed, 0.0) / max(allowed, least)
        for got, allowed, least in pairs
        if got is not None and allowed is not None
    )


@dataclass
class _Run:
    """The state of one search."""

    measure: Measure
    gauge: Measure
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
                rounding = "gptq" if precision == "int4" else self.start.rounding
                whole = replace(self.start, precision=precision, layers={}, rounding=rounding)
                self.try_recipe(f"{precision} throughout", whole)

    def best_of_eight_bits(self) -> Trial | None:
        """Gauge other ranges and another rounding; return the closest 8-bit model that keeps the accuracy budget."""
        if "int8" not in self.choices.precisions:
            return None
        plain = self.try_recipe("int8 throughout", replace(self.start, precision="int8", layers={}))
        if plain is None:
            return None
        closest, title = self._closest_variant(plain.measured.recipe)
        tried = [plain, self.try_recipe(title, closest) or plain]
        return min(tried, key=lambda trial: (not self.accurate(trial), _distance(trial)))

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

    def wants_less(self, base: Trial) -> bool:
        """Tell whether 4-bit weights may be used, and would be of use: for the size, the arena or a smaller model."""
        if "int4" not in self.choices.precisions or not self.choices.four_bit_layers:
            return False
        return self.budgets.drop is not None or bool(breaches(base.measured, self.budgets))

    def lower(self, base: Trial) -> None:
        """Take layers to 4 bits, the least harm for a byte first, as long as the accuracy budget is kept."""
        worth = _LEAST_SAVING * base.measured.model_bytes
        layers = [n for n, weights in self._largest() if n in self.choices.four_bit_layers and weights / 2 >= worth]
        order = cheapest_first(self._sensitivities(base, layers, "int4"))
        kept: dict[str, LayerPrecision] = {}
        best = replace(base.measured.recipe, rounding="gptq")
        for one in order:
            taken: dict[str, LayerPrecision] = {**kept, one.layer: "int4"}
            trial = self.try_recipe(self._titled(taken, "int4"), _with_layers(best, taken))
            if trial is None:
                continue
            if self.accurate(trial):
                kept = taken
            if self.budgets.drop is None and self.fitting():
                return

    def raise_layers(self, base: Trial) -> None:
        """Give layers of the closest 8-bit model more precision, the most help for a byte first, until one fits."""
        if "mixed" not in self.choices.precisions:
            return
        higher: LayerPrecision = "int16x8" if "int16x8" in self.choices.precisions else "float32"
        layers = [name for name, _ in self._largest()]
        taken: dict[str, LayerPrecision] = {}
        for one in most_helpful_first(self._sensitivities(base, layers, higher)):
            taken = {**taken, one.layer: higher}
            trial = self.try_recipe(self._titled(taken, higher), _with_layers(base.measured.recipe, taken))
            if trial is not None and not breaches(trial.measured, self.budgets):
                return

    def accurate(self, trial: Trial) -> bool:
        """Tell whether a trial keeps the accuracy budget."""
        return self.budgets.drop is None or trial.measured.worst_drop <= self.budgets.drop

    def fitting(self) -> list[Trial]:
        """Return the trials that keep all budgets."""
        return [trial for trial in self.trials if not breaches(trial.measured, self.budgets)]

    def verdict(self) -> Found | Nearest:
        """Return the best of those that fit, or the nearest."""
        if not self.trials:
            raise self.refusals[0]
        trials = tuple(self.trials)
        refused = tuple(refusal.message for refusal in self.refusals)
        fitting = self.fitting()
        if fitting:
            return Found(min(fitting, key=self._rank), trials, refused)
        nearest = min(trials, key=lambda trial: (_rounded(excess(trial.measured, self.budgets)), *self._rank(trial)))
        return Nearest(nearest, breaches(nearest.measured, self.budgets), trials, refused)

    def _tried(self, title: str, recipe: Recipe) -> list[Trial]:
        trial = self.try_recipe(title, recipe)
        return [] if trial is None else [trial]

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
        """Return the largest layers, as many as measurements are left for: one alone and one together each."""
        most = max((self.most - len(self.asked) - self.gauged) // 2, 1)
        return sorted(self.choices.layers, key=lambda layer: (-layer[1], layer[0]))[:most]

    def _used_up(self) -> bool:
        return len(self.asked) + self.gauged >= self.most or (bool(self.trials) and not self.in_time())

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
                _rounded(after.distance) - _rounded(before.distance),
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


def _as_bytes(value: float) -> str:
    return f"{math.ceil(value)} bytes"


def _as_us(value: float) -> str:
    return f"{value:.0f} µs"


def _as_points(value: float) -> str:
    return f"{100.0 * value:.2f} points"
