# SPDX-License-Identifier: Apache-2.0
"""Find the recipe that keeps a product's budgets: compare candidates, report on samples that none of them has seen.

Samples have three parts, told apart by their digests: the model is calibrated on the first, candidates are compared on
the second, and the third decides nothing until one candidate is chosen: what is reported is measured there. Reference
kernels answer, so that the choice does not depend on the processor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from converter.core.recipe import FOUR_BIT_OPERATORS, Recipe, has_integer_activations, recipe_sha256
from converter.core.scoring import Metric
from converter.core.search.budgets import Breach, Choices, Found, Measured, Nearest, SearchBudgets, Trial
from converter.core.search.pareto import on_front
from converter.core.search.stages import search
from converter.judging import Answering, Judge, Judged
from converter.observation import Observation, observe
from converter.quantization import Quantized, quantize, quantize_observed
from converter.sample_parts import Parts
from edgefleet.contracts.errors import BudgetError, InputError
from edgefleet.contracts.evidence import Candidate
from edgefleet.contracts.manifest import DetectionRole, Precision, Preprocessing, Task

_MOST_TRIALS = 60
_MOST_REPORTED = 6
#: Two samples of 200 are one point, whatever the last bits say.
_ROUNDING = 1e-9
#: How many times longer than the longest so far a measurement may take: rounding by gptq, a busy machine.
_SLOWER = 1.5
#: Told in the evidence, for another machine may find another model; the recipe that was found makes the same bytes.
_HURRIED = (
    "the search was ended by its time limit of {:g} s, after {} candidates: with more time or on a faster machine it "
    "may find a smaller model; the bundle carries the recipe that was found, which makes the same bytes anywhere"
)
#: How many samples gauge the sensitivity of a layer.
_GAUGING_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class BoardCost:
    """What a candidate costs on the board, where that can be told.

    ``model_bytes`` is its size as the bundle has it, with an arena plan or compiled for an NPU; absent: as it is.
    """

    model_bytes: int | None = None
    arena_bytes: int | None = None
    latency_us: float | None = None


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What to search for, and on what.

    ``precisions`` are those that the board runs. ``cost`` tells what a model needs there; ``check`` raises
    RefusedError for a model that its runtime does not run right. ``clock`` counts seconds.
    """

    model: bytes
    start: Recipe
    budgets: SearchBudgets
    precisions: tuple[Precision, ...]
    samples: Parts
    preprocessing: Preprocessing
    task: Task
    metric: Metric
    clock: Callable[[], float]
    roles: tuple[DetectionRole, ...] = ()
    limit_s: float = math.inf
    most: int = _MOST_TRIALS
    cost: Callable[[bytes], BoardCost] = field(default=lambda _: BoardCost())
    check: Callable[[bytes], None] = field(default=lambda _: None)
    progress: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class SearchResult:
    """The verdict, the recipe of the chosen or nearest candidate, and the candidates on samples never seen before.

    ``remarks`` tell of the search, not of the model: they are for the evidence, never for the bundle, which the recipe
    alone makes again.
    """

    outcome: Found | Nearest
    recipe: Recipe
    quantized: Quantized
    candidates: tuple[Candidate, ...]
    measurements: int
    remarks: tuple[str, ...] = ()

    def refusal(self) -> BudgetError | None:
        """Return the sentence that tells which budget nothing keeps, or None where one candidate keeps all."""
        if isinstance(self.outcome, Found):
            return None
        nearest = self.outcome.nearest
        broken = "; ".join(str(breach) for breach in self.outcome.broken)
        tried = f"{self.measurements} candidates" + (" that there was time for" if self.outcome.hurried else "")
        return BudgetError(
            f"none of {tried} keeps all budgets; the nearest, '{nearest.title}' with "
            f"{nearest.measured.model_bytes} bytes, breaks {len(self.outcome.broken)}: {broken}",
            hint="raise that budget, train a smaller or better model, or give more evaluation samples, which make "
            "the interval of the drop narrower",
        )


def find_recipe(request: SearchRequest) -> SearchResult:
    """Search, then judge the best candidates on the samples that decided nothing.

    Raises:
        SampleError: the samples do not fit the model or the task.
        RefusedError: no candidate could be made at all.
    """
    bench = _Bench(request)
    outcome = search(
        bench.measure,
        request.budgets,
        request.start,
        choices=bench.choices(),
        most=request.most,
        in_time=bench.in_time,
        gauge=bench.gauge,
        unseen_drop=bench.unseen_drop,
    )
    chosen = outcome.chosen if isinstance(outcome, Found) else outcome.nearest
    candidates = bench.report(outcome, chosen)
    outcome = _confirmed(outcome, next(one for one in candidates if one.chosen), request.budgets)
    recipe = chosen.measured.recipe
    made = bench.made[recipe_sha256(recipe)]
    remarks = (_HURRIED.format(request.limit_s, len(outcome.trials)),) if outcome.hurried else ()
    return SearchResult(outcome, recipe, made, candidates, len(outcome.trials), remarks)


def _confirmed(outcome: Found | Nearest, chosen: Candidate, budgets: SearchBudgets) -> Found | Nearest:
    """Take a find back where unseen samples show a larger drop than allowed."""
    if isinstance(outcome, Nearest) or budgets.drop is None or chosen.drop <= budgets.drop + _ROUNDING:
        return outcome
    allowed, got, by = (
        f"{100.0 * share:.2f} points" for share in (budgets.drop, chosen.drop, chosen.drop - budgets.drop)
    )
    breach = Breach("the drop on samples that the search never saw", allowed, got, by)
    return Nearest(outcome.chosen, (breach,), outcome.trials, outcome.refused, outcome.hurried)


def _check_told(cost: BoardCost, budgets: SearchBudgets) -> None:
    """Refuse a budget that nothing can be compared with: it would be kept by silence.

    Raises:
        InputError: the board's arena or latency cannot be predicted, and has a limit.
    """
    for budget, limit, told, option in (
        ("arena", budgets.arena_bytes, cost.arena_bytes, "--max-arena"),
        ("latency", budgets.latency_us, cost.latency_us, "--max-latency"),
    ):
        if limit is not None and told is None:
            raise InputError(
                f"the {budget} has a budget, and what a model needs of it cannot be predicted for this board",
                hint=f"leave {option} (or the profile's budget) out; arenas are microcontrollers', and times need "
                "cpu.clock_hz in the profile",
            )


class _Bench:
    """Makes and measures candidates of one float model."""

    def __init__(self, request: SearchRequest) -> None:
        self._request = request
        self._started_s = request.clock()
        self._longest_s = self._judging_s = 0.0
        self._measured = 0
        self.made: dict[str, Quantized] = {}
        self._reported: dict[str, Judged] = {}
        self._observation: Observation | None = None
        how = Answering(request.preprocessing, request.task, request.roles, request.metric)
        self._searching = Judge.of(request.model, request.samples.search, how)
        self._reporting = Judge.of(request.model, request.samples.report, how)
        self._gauging = self._searching.first(_GAUGING_SAMPLES)

    def choices(self) -> Choices:
        """Return what may be chosen for the whole model and for single layers."""
        if not {"int8", "int4", "int16x8", "mixed"} & set(self._request.precisions):
            return Choices(precisions=self._request.precisions)
        observed = self._observed()
        operators = {
            observed.prepared.facts.tensors[o.outputs[0]].name: o.name for o in observed.prepared.facts.operators
        }
        return Choices(
            precisions=self._request.precisions,
            layers=tuple((layer.output, int(layer.weights.size)) for layer in observed.layers),
            four_bit_layers=frozenset(
                layer.output for layer in observed.layers if operators[layer.output] in FOUR_BIT_OPERATORS
            ),
        )

    def measure(self, recipe: Recipe) -> Measured:
        """Make a candidate and judge it on the search samples."""
        started_s = self._request.clock()
        settled, quantized = self._made(recipe)
        cost = self._request.cost(quantized.data)
        _check_told(cost, self._request.budgets)
        made_s = self._request.clock()
        judged = self._searching.judge(quantized.data)
        ended_s = self._request.clock()
        self._longest_s = max(self._longest_s, ended_s - started_s)
        self._judging_s, self._measured = ended_s - made_s, self._measured + 1
        size_bytes = len(quantized.data) if cost.model_bytes is None else cost.model_bytes
        self._request.progress(f"{size_bytes} bytes, drop {100.0 * judged.drop:.2f} points")
        return Measured(
            recipe=settled,
            model_bytes=size_bytes,
            arena_bytes=cost.arena_bytes,
            latency_us=cost.latency_us,
            drop=judged.drop,
            worst_drop=judged.worst_drop,
            distance=judged.distance,
        )

    def in_time(self) -> bool:
        """Tell whether another measurement and the report still fit into the time."""
        parts = self._request.samples
        judging_s = self._judging_s * len(parts.report) / len(parts.search)
        left = max(min(self._measured, _MOST_REPORTED) + 1 - len(self._reported), 1)
        needed_s = _SLOWER * self._longest_s + judging_s * left
        return self._request.clock() - self._started_s + needed_s < self._request.limit_s

    def gauge(self, recipe: Recipe) -> Measured:
        """Make a candidate and take its distance from float on few of the search samples."""
        settled, quantized = self._made(recipe)
        distance = self._gauging.distance(quantized.data)
        return Measured(
            recipe=settled, model_bytes=len(quantized.data), drop=math.nan, worst_drop=math.nan, distance=distance
        )

    def _made(self, recipe: Recipe) -> tuple[Recipe, Quantized]:
        """Return a candidate that the board runs right, and its recipe with every open choice made."""
        quantized = self._make(recipe)
        self._request.check(quantized.data)
        settled = recipe if quantized.conditioning is None else replace(recipe, conditioning=(quantized.conditioning,))
        self.made[recipe_sha256(settled)] = quantized
        return settled, quantized

    def report(self, outcome: Found | Nearest, chosen: Trial) -> tuple[Candidate, ...]:
        """Judge the chosen candidate and those that nothing beats on the samples that decided nothing."""
        reported = _worth_reporting(outcome.trials, chosen)
        judged = [self._unseen(trial.measured) for trial in reported]
        front = on_front(
            [(trial.measured.model_bytes, one.drop, one.distance) for trial, one in zip(reported, judged, strict=True)]
        )
        return tuple(
            Candidate(
                title=trial.title,
                recipe_sha256=recipe_sha256(trial.measured.recipe),
                model_bytes=trial.measured.model_bytes,
                arena_bytes=trial.measured.arena_bytes,
                latency_us=trial.measured.latency_us,
                drop=one.drop,
                interval=one.interval,
                on_front=is_on_front,
                chosen=trial is chosen,
            )
            for trial, one, is_on_front in zip(reported, judged, front, strict=True)
        )

    def unseen_drop(self, measured: Measured) -> float:
        """Return a candidate's drop on the samples that decide nothing else."""
        return self._unseen(measured).drop

    def _unseen(self, measured: Measured) -> Judged:
        key = recipe_sha256(measured.recipe)
        if key not in self._reported:
            self._reported[key] = self._reporting.judge(self.made[key].data)
        return self._reported[key]

    def _make(self, recipe: Recipe) -> Quantized:
        if has_integer_activations(recipe) and recipe.prune == self._request.start.prune:
            return quantize_observed(self._observed(), recipe)
        return quantize(self._request.model, recipe, self._request.samples.calibration, self._request.preprocessing)

    def _observed(self) -> Observation:
        if self._observation is None:
            request = self._request
            self._observation = observe(
                request.model, request.samples.calibration, request.preprocessing, pruned=request.start.prune
            )
        return self._observation


def _worth_reporting(trials: Sequence[Trial], chosen: Trial) -> list[Trial]:
    """Return the trials that no other is smaller and closer than, the smallest first, and the chosen one."""
    front = on_front([(trial.measured.model_bytes, trial.measured.distance) for trial in trials])
    best = sorted(
        (trial for trial, good in zip(trials, front, strict=True) if good and trial is not chosen),
        key=lambda trial: trial.measured.model_bytes,
    )
    return sorted([chosen, *best[: _MOST_REPORTED - 1]], key=lambda trial: trial.measured.model_bytes)
