# SPDX-License-Identifier: Apache-2.0
"""What a rig found, in a form that a benchmark can write and a test can compare."""

from collections.abc import Iterable
from typing import NamedTuple

from edgefleet.contracts.manifest import Fact


class Examined(NamedTuple):
    """One place where the power was cut, and what is wrong with what is left (nothing, it should be)."""

    place: str
    wrong: list[str]


class Finding(Fact, frozen=True, kw_only=True):
    """Something wrong, and the first place where it was."""

    wrong: str
    place: str
    times: int


class RigReport(Fact, frozen=True, kw_only=True):
    """How many places were tried, how many of them did harm, and what harm."""

    places: int
    harmed: int
    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """Return the report for people."""
        lines = [f"{self.places} places, {self.harmed} with harm"]
        return "\n".join([*lines, *(f"  {f.times:5} x {f.wrong}  [{f.place}]" for f in self.findings)])


def report_of(examined: Iterable[Examined], *, enough: int | None = None) -> RigReport:
    """Count what a rig examines, until ``enough`` places did harm."""
    places = harmed = 0
    found: dict[str, tuple[str, int]] = {}
    for place, wrong in examined:
        places += 1
        harmed += bool(wrong)
        for what in wrong:
            first, times = found.get(what, (place, 0))
            found[what] = (first, times + 1)
        if harmed == enough:
            break
    findings = tuple(Finding(wrong=what, place=place, times=times) for what, (place, times) in found.items())
    return RigReport(places=places, harmed=harmed, findings=findings)
