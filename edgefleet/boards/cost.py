# SPDX-License-Identifier: Apache-2.0
"""From counts to cycles: a linear model that says whether it was calibrated, and on what.

QEMU counts instructions, loaded and stored words, all exactly; cycles are an estimate. A calibrated model's weights are
fitted to what a board measured itself (:mod:`edgefleet.boards.calibration`). An uncalibrated one is an assumption, and
says so wherever it is shown.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec

from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import SettingError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.manifest import Fact, Positive

#: What a model has a weight for, in the order of vectors here.
CLASSES = ("instructions", "loads", "stores")
#: No processor takes longer for a word; more is a file that is damaged.
_MOST_CYCLES = 10_000.0
#: A column that is, but for this share, made of the others.
_DEPENDENT = 1e-6
Weight = Annotated[float, msgspec.Meta(ge=0.0, le=_MOST_CYCLES)]
Share = Annotated[float, msgspec.Meta(ge=0.0)]


class Counted(Protocol):
    """Anything that has counts of one run: instructions, and words loaded and stored."""

    @property
    def instructions(self) -> int: ...  # noqa: D102

    @property
    def loads(self) -> int: ...  # noqa: D102

    @property
    def stores(self) -> int: ...  # noqa: D102


class CyclesPer(Fact, frozen=True, kw_only=True):
    """Cycles for one instruction, and on top of it for each word loaded or stored."""

    instructions: Weight
    loads: Weight
    stores: Weight


class Fit(Fact, frozen=True, kw_only=True):
    """How well the weights explain what the board measured: shares of the measured cycles, over ``cases``."""

    cases: Positive
    worst_error: Share
    mean_error: Share


class CostModel(Fact, frozen=True, kw_only=True):
    """Weights, and where they come from. ``fit`` is absent where nothing was measured."""

    format_version: Literal[1] = 1
    profile: str
    source: str
    cycles_per: CyclesPer
    fit: Fit | None = None

    @property
    def calibrated(self) -> bool:
        """Say whether a board's own cycle counter stands behind the weights."""
        return self.fit is not None

    def cycles(self, counts: Counted) -> int:
        """Return the estimated cycles of one run."""
        per = self.cycles_per
        return round(counts.instructions * per.instructions + counts.loads * per.loads + counts.stores * per.stores)

    def describe(self) -> str:
        """Return one sentence: calibrated or not, from what, and how far off."""
        if self.fit is None:
            return f"not calibrated: {self.source}"
        return (
            f"calibrated on {self.profile} ({self.source}; {self.fit.cases} cases, "
            f"worst error {self.fit.worst_error:.1%}, mean {self.fit.mean_error:.1%})"
        )


def assumed_cost(profile: str) -> CostModel:
    """Return what is taken where nothing was measured: one cycle for each instruction and for each word moved."""
    return CostModel(
        profile=profile,
        source="assumed one cycle an instruction, and one more for each word loaded or stored",
        cycles_per=CyclesPer(instructions=1.0, loads=1.0, stores=1.0),
    )


@dataclass(frozen=True)
class Measured:
    """One case as the board saw it: what it executes, and the cycles that its counter showed."""

    name: str
    instructions: int
    loads: int
    stores: int
    cycles: int


def fit_cost(measured: Sequence[Measured], *, profile: str, source: str) -> CostModel:
    """Fit weights, none below 0, so that the squares of relative errors are least.

    Raises:
        ValueError: a case has no cycles, or the cases cannot tell the weights apart.
    """
    rows = [[count / case.cycles for count in (case.instructions, case.loads, case.stores)] for case in measured]
    weights = non_negative_least_squares(rows, [1.0] * len(rows))
    errors = [abs(_dot(row, weights) - 1.0) for row in rows]
    fit = Fit(cases=len(rows), worst_error=max(errors), mean_error=sum(errors) / len(errors))
    per = CyclesPer(**dict(zip(CLASSES, weights, strict=True)))
    return CostModel(profile=profile, source=source, cycles_per=per, fit=fit)


def non_negative_least_squares(rows: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """Return the x of least ``|rows · x - wanted|²`` with no x below 0.

    The answer is an ordinary least-squares solution on the columns that are not 0 in it (the Karush-Kuhn-Tucker
    conditions), so with the few columns here all subsets are tried.

    Raises:
        ValueError: the columns are not independent.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    best, least = [0.0] * len(columns), _dot(wanted, wanted)
    for count in range(len(columns), 0, -1):
        for chosen in combinations(range(len(columns)), count):
            solution = _least_squares([columns[index] for index in chosen], wanted)
            tried = [0.0] * len(columns)
            for index, value in zip(chosen, solution, strict=True):
                tried[index] = value
            rest = sum((_dot(row, tried) - value) ** 2 for row, value in zip(rows, wanted, strict=True))
            if min(tried) >= 0.0 and rest < least:
                best, least = tried, rest
    return best


def _least_squares(columns: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """Solve by Gram and Schmidt: each column's part that the ones before it do not have, then substitution."""
    basis: list[list[float]] = []
    factors: list[list[float]] = []
    for column in columns:
        rest, row = list(column), []
        for unit in basis:
            row.append(_dot(unit, rest))
            rest = [value - row[-1] * part for value, part in zip(rest, unit, strict=True)]
        length = math.sqrt(_dot(rest, rest))
        if length <= _DEPENDENT * math.sqrt(_dot(column, column)):
            raise ValueError("the cases do not tell instructions, loads and stores apart")
        basis.append([value / length for value in rest])
        factors.append([*row, length])
    solution = [_dot(unit, wanted) for unit in basis]
    for index in range(len(solution) - 1, -1, -1):
        later = sum(factors[other][index] * solution[other] for other in range(index + 1, len(solution)))
        solution[index] = (solution[index] - later) / factors[index][index]
    return solution


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def cost_toml(model: CostModel) -> str:
    """Write a model as the TOML that :func:`read_cost` reads."""
    per = model.cycles_per
    lines = [
        "# Cycles for what QEMU counts. Fitted to a board's own cycle counter: an estimate for other code.",
        f"format_version = {model.format_version}",
        f"profile = {_quoted(model.profile)}",
        f"source = {_quoted(model.source)}",
        "",
        "[cycles_per]",
        *(f"{name} = {float(getattr(per, name))!r}" for name in CLASSES),
    ]
    if model.fit is not None:
        lines += [
            "",
            "# Shares of the measured cycles.",
            "[fit]",
            f"cases = {model.fit.cases}",
            f"worst_error = {float(model.fit.worst_error)!r}",
            f"mean_error = {float(model.fit.mean_error)!r}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Write a TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def read_cost(path: Path) -> CostModel:
    """Read the file that ``emulate calibrate`` wrote.

    Raises:
        FileMissingError: it cannot be read.
        SettingError: it is no cost model; the field is named.
    """
    return decode_toml(read_file(path, "the cost model"), CostModel, source=path.name, error=SettingError)
