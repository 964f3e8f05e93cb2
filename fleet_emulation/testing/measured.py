# SPDX-License-Identifier: Apache-2.0
"""What a run on an emulated board cost, from what it was built, and how that compares: plain data, one test to another.

Records travel from the workers of pytest-xdist to the process that writes baselines and reports.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from edgefleet.contracts.manifest import Fact, Natural

#: Every figure in the order in which reports show them. Counts are of one inference, the most expensive of the batch.
FIGURES: Mapping[str, str] = {
    "instructions": "instructions",
    "loads": "loads",
    "stores": "stores",
    "init_instructions": "instructions before the first inference",
    "stack_bytes": "stack, deepest seen, in bytes",
    "stack_bound_bytes": "stack, at most, in bytes",
    "flash_bytes": "flash, in bytes",
    "ram_bytes": "RAM beside the stack, in bytes",
}


class Key(Fact, frozen=True, kw_only=True):
    """What figures depend on beside the code: those of different keys are not compared."""

    profile: str
    compiler: str
    version: str
    flags: str

    def __str__(self) -> str:
        return f"{self.compiler} {self.version}"


class Origin(Fact, frozen=True, kw_only=True):
    """What was measured. A change of it is meant to be seen in the figures, so it is told and not forgiven."""

    build: Literal["static", "updatable", "sources"]
    model_sha256: str | None = None
    inputs_sha256: str | None = None
    numerics: str | None = None
    edgefleet: str = ""


class Measured(Fact, frozen=True, kw_only=True):
    """The figures of one run, by the names of :data:`FIGURES`; one that is not known is absent.

    ``missing`` says why a figure is absent that another machine has: a program is not installed here.
    """

    key: Key
    origin: Origin
    figures: Mapping[str, Natural]
    missing: Mapping[str, str] = {}


class Change(Fact, frozen=True, kw_only=True):
    """One figure before and after."""

    figure: str
    before: int
    after: int

    @property
    def percent(self) -> float:
        """By how much it rose; infinite from nothing to something."""
        if self.before == self.after:
            return 0.0
        return float("inf") if self.before == 0 else (self.after - self.before) * 100 / self.before

    def __str__(self) -> str:
        return f"{self.figure} {self.before:,} → {self.after:,} ({self.percent:+.2f} %)"


class Comparison(Fact, frozen=True, kw_only=True):
    """How a run compares with a stored baseline.

    ``worse`` fails a test. ``other-key`` and ``updated`` do not compare at all, and ``changes`` is empty. ``sentence``
    says it in words; it is empty where nothing changed.
    """

    name: str
    verdict: Literal["same", "better", "within-tolerance", "worse", "other-key", "updated"]
    changes: tuple[Change, ...] = ()
    sentence: str = ""


class Record(Fact, frozen=True, kw_only=True):
    """One thing that a test saw: a run, or a run's comparison with a baseline."""

    test: str
    label: str
    measured: Measured
    comparison: Comparison | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What reports show of one program on one board: the largest of each figure in all its runs."""

    label: str
    key: Key
    origin: Origin
    figures: Mapping[str, int]
    comparisons: tuple[Comparison, ...]
    tests: tuple[str, ...]


def largest(runs: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Return the larger of each figure, in the order of :data:`FIGURES`."""
    both = {**runs, **more}
    return {name: max(runs.get(name, 0), both[name], more.get(name, 0)) for name in FIGURES if name in both}


def rows(records: list[Record]) -> list[Row]:
    """Gather records by program, board and compiler, sorted by label."""
    found: dict[tuple[str, Key, str], Row] = {}
    for record in records:
        measured = record.measured
        place = (record.label, measured.key, measured.origin.build)
        before = found.get(place)
        told = () if record.comparison is None else (record.comparison,)
        if before is None:
            figures = largest({}, measured.figures)
            row = Row(
                label=record.label,
                key=measured.key,
                origin=measured.origin,
                figures=figures,
                comparisons=told,
                tests=(record.test,),
            )
        else:
            row = Row(
                label=before.label,
                key=before.key,
                origin=before.origin,
                figures=largest(before.figures, measured.figures),
                comparisons=tuple(dict.fromkeys([*before.comparisons, *told])),
                tests=tuple(dict.fromkeys([*before.tests, record.test])),
            )
        found[place] = row
    return [found[place] for place in sorted(found, key=lambda place: (place[0], str(place[1]), place[2]))]
