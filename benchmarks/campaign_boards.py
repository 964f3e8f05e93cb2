# SPDX-License-Identifier: Apache-2.0
"""The fast kernels on emulated boards against both oracles: a million output elements of each variant, or a time limit.

``python -m benchmarks.campaign_boards [BOARD COMPILER [MINUTES]]``: cases are drawn row after row, lowered for the
board's kernel set, answered by the tflite-micro wheel (``tflm/1``) or LiteRT's reference kernels (``litert/1``), and
run on the board some hundred a boot, one in three over its own input. It fails where a single byte differs.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.operator_cases import fast, others, weighted
from benchmarks.operator_cases.board_kernels import BoardCase, run_cases
from benchmarks.operator_cases.case import Array, Case, flatbuffer
from benchmarks.operator_cases.comparison import Tally
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import Program, lowered
from benchmarks.operator_cases.oracles import NUMERICS, RefusedError, answers
from benchmarks.record import write
from converter.c.core.lowering import LOWERINGS
from converter.c.core.program import KernelSet, Target
from edgefleet.boards.toolchains import Kind, find_toolchain
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.profile import kernel_set
from firmware_profiles.loader import load_profile

_ELEMENTS, _SETS, _MINUTES = 1_000_000, 2_000, 20.0
_CASES_A_BOOT, _SEED = 300, 2_000_000
_ROWS: Mapping[str, Callable[[Draw], Case]] = {
    **weighted.ROWS,
    **fast.ROWS,
    **{name: others.ROWS[name] for name in ("average pool", "max pool", "mean", "add")},
}


@dataclass(frozen=True)
class _Tried:
    board_case: BoardCase
    wanted: list[Array]
    variant: str
    identity: bytes
    seed: int


@dataclass
class _Campaign:
    """What one board has shown so far."""

    tallies: dict[str, Tally] = field(default_factory=dict)

    def count(self, one: _Tried, got: list[Array]) -> None:
        tally = self.tallies.setdefault(one.variant, Tally())
        tally.sets.add(one.identity)
        tally.compare(got, one.wanted, one.seed)
        tally.count(one.wanted)

    def wants(self, variants: frozenset[str]) -> set[str]:
        """Return the variants that have not had their share yet."""
        return {name for name in variants if not self._done(self.tallies.get(name, Tally()))}

    @staticmethod
    def _done(tally: Tally) -> bool:
        return tally.elements >= _ELEMENTS and len(tally.sets) >= _SETS


def _tried(case: Case, seed: int, ours: KernelSet) -> _Tried | None:
    """Lower a case and ask its oracle; None where one of them refuses it."""
    numerics = NUMERICS[seed % 2]
    graph = case.tflm_graph if case.tflm_graph and numerics == "tflm/1" else case.graph
    with suppress(UnsupportedModelError, RefusedError):
        parts = lowered(case.graph, Target(numerics, ours), LOWERINGS)
        calls = [call for part in parts.values() for call in part.calls]
        places = sorted({place for call in calls for place in call.in_place})
        over = places[0] if places and seed % 3 == 0 else None
        board_case = BoardCase(Program(case.graph, parts, over=over), case.steps[0])
        if len(calls) != 1 or not board_case.fits:
            return None
        model = flatbuffer(graph)
        (wanted,) = answers(model, numerics, case.steps[:1])
        return _Tried(board_case, wanted, calls[0].variant, hashlib.sha256(model).digest(), seed)
    return None


def _batches(row: str, ours: KernelSet) -> Iterator[list[_Tried]]:
    seed = _SEED
    while True:
        drawn = (_tried(_ROWS[row](Draw(number)), number, ours) for number in range(seed, seed + _CASES_A_BOOT))
        yield [one for one in drawn if one is not None]
        seed += _CASES_A_BOOT


def run(board: str, compiler: Kind, minutes: float) -> dict[str, Tally]:
    """Run rows in turn until every variant has had its share, or the time is over."""
    profile = load_profile(board)
    toolchain, ours = find_toolchain(profile.cpu, prefer=compiler), kernel_set(profile)
    campaign, ends = _Campaign(), time.monotonic() + minutes * 60
    rows = {row: _batches(row, ours) for row in _ROWS}
    reaches: dict[str, set[str]] = {row: set() for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        while (wanted := campaign.wants(fast.VARIANTS[ours])) and time.monotonic() < ends:
            useful = [row for row in rows if not reaches[row] or reaches[row] & wanted]
            if not useful:
                break
            for row in useful:
                batch = next(rows[row])
                got = run_cases([one.board_case for one in batch], profile, toolchain, Path(folder))
                for one, outputs in zip(batch, got, strict=True):
                    campaign.count(one, outputs)
                    reaches[row].add(one.variant)
                if time.monotonic() > ends:
                    break
            print(f"{board} {compiler}: {_sum(campaign.tallies)}, {len(wanted)} variants want more", flush=True)
    return campaign.tallies


def _sum(tallies: Mapping[str, Tally]) -> str:
    found = tallies.values()
    elements, sets = sum(tally.elements for tally in found), sum(len(tally.sets) for tally in found)
    return f"{elements} elements, {sets} sets, {sum(tally.mismatches for tally in found)} mismatches"


def main() -> int:
    board, compiler = sys.argv[1:3] if len(sys.argv) > 2 else ("mps2-an386", "gcc")
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else _MINUTES
    tallies = run(board, cast(Kind, compiler), minutes)
    for variant, tally in sorted(tallies.items()):
        print(f"{variant:36}{tally.elements:>10} elements {len(tally.sets):>6} sets {tally.mismatches:>4} mismatches "
              f"{tally.first}")  # fmt: skip
    document = {name: tally.document() for name, tally in sorted(tallies.items())}
    write(f"campaign_{board}_{compiler}", {"asked": {"elements": _ELEMENTS, "parameter_sets": _SETS}, "rows": document})
    return 1 if any(tally.mismatches for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
