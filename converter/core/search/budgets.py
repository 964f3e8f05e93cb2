# SPDX-License-Identifier: Apache-2.0
"""What a search compares: measured candidates, budgets, which of them a candidate breaks and by how much."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from converter.core.recipe import Recipe
from edgefleet.contracts.manifest import Precision

#: What a drop budget of 0 counts as where budgets broken are compared.
_SMALLEST_DROP = 0.001


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
    """The candidate that keeps all budgets; all trials, and what was refused on the way, in words.

    ``hurried``: time ran out before all was tried that would have been on a faster machine.
    """

    chosen: Trial
    trials: tuple[Trial, ...]
    refused: tuple[str, ...] = ()
    hurried: bool = False


@dataclass(frozen=True)
class Nearest:
    """No candidate keeps all budgets: the one that breaks them least, and how it does."""

    nearest: Trial
    broken: tuple[Breach, ...]
    trials: tuple[Trial, ...]
    refused: tuple[str, ...] = ()
    hurried: bool = False


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


def _as_bytes(value: float) -> str:
    return f"{math.ceil(value)} bytes"


def _as_us(value: float) -> str:
    return f"{value:.0f} µs"


def _as_points(value: float) -> str:
    return f"{100.0 * value:.2f} points"
