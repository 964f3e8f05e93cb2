# SPDX-License-Identifier: Apache-2.0
"""Cases run on the C kernels and on an oracle, and what came of it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.operator_cases.case import Array, Case, flatbuffer
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import HostKernels, Program, lowered
from benchmarks.operator_cases.oracles import RefusedError, answers
from converter.c.core.program import Target
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import Numerics


@dataclass
class Tally:
    """One row: parameter sets and output elements compared, how many sat at an end of int8, and what differed."""

    sets: set[bytes] = field(default_factory=set)
    elements: int = 0
    saturated: int = 0
    mismatches: int = 0
    refused_by_oracle: int = 0
    refused_by_us: int = 0
    reasons: set[str] = field(default_factory=set)
    variants: set[str] = field(default_factory=set)
    first: str = ""

    def compare(self, got: Sequence[Array], wanted: Sequence[Array], seed: int) -> None:
        """Compare the outputs of one step, bit for bit."""
        for mine, theirs in zip(got, wanted, strict=True):
            same = mine.shape == theirs.shape and mine.dtype == theirs.dtype
            different = int((_bits(mine) != _bits(theirs)).sum()) if same else max(1, theirs.size)
            self.mismatches += different
            if different and not self.first:
                self.first = f"seed {seed}: {different} of {theirs.size}, {mine.ravel()[:6]} for {theirs.ravel()[:6]}"

    def count(self, wanted: Sequence[Array]) -> None:
        """Count the outputs of one step, once however often they were compared."""
        for theirs in wanted:
            self.elements += theirs.size
            if theirs.dtype == np.int8:
                self.saturated += int(((theirs == -128) | (theirs == 127)).sum())

    def document(self) -> dict[str, Any]:
        """Return the row as a result keeps it."""
        return {
            "parameter_sets": len(self.sets),
            "elements": self.elements,
            "at_the_ends_of_int8": self.saturated,
            "mismatches": self.mismatches,
            "refused_by_oracle": self.refused_by_oracle,
            "refused_by_generator": self.refused_by_us,
            "variants": sorted(self.variants),
            **({"first_mismatch": self.first} if self.first else {}),
        }


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(np.uint8 if array.dtype.itemsize == 1 else np.uint32)


@dataclass(frozen=True)
class Bench:
    """What cases run on: the kernels, the lowerings, and the rounding to compare with."""

    kernels: HostKernels
    lowerings: Mapping[str, Any]
    numerics: Numerics

    def run(self, case: Case, tally: Tally, seed: int) -> None:
        """Compare one case, once with every tensor at its own place and once for each input that may be overwritten."""
        model = flatbuffer(case.tflm_graph if case.tflm_graph and self.numerics == "tflm/1" else case.graph)
        try:
            parts = lowered(case.graph, Target(self.numerics, "portable"), self.lowerings)
        except UnsupportedModelError as error:
            tally.refused_by_us += 1
            tally.reasons.add(error.message)
            return
        try:
            wanted = answers(model, self.numerics, case.steps, outputs=len(case.graph.outputs))
        except RefusedError:
            tally.refused_by_oracle += 1
            return
        calls = [call for part in parts.values() for call in part.calls]
        tally.variants.update(call.variant for call in calls)
        tally.sets.add(hashlib.sha256(model).digest())
        places = {place for call in calls for place in call.in_place} if len(case.graph.operators) == 1 else set()
        for over in (None, *sorted(places)):
            got = self.kernels.run(Program(case.graph, parts, over=over), case.steps)
            for mine, theirs in zip(got, wanted, strict=True):
                tally.compare(mine, theirs, seed)
        for theirs in wanted:
            tally.count(theirs)

    def sweep(
        self, draw_case: Callable[[Draw], Case], *, elements: int, sets: int, seed: int, tries: int | None = None
    ) -> Tally:
        """Run cases until there are enough elements and parameter sets, or so many were tried."""
        tally, tried = Tally(), 0
        while (tally.elements < elements or len(tally.sets) < sets) and (tries is None or tried < tries):
            self.run(draw_case(Draw(seed + tried)), tally, seed + tried)
            tried += 1
            if tried == 50 and not tally.sets:
                break  # the oracle does not know the operator
        return tally
