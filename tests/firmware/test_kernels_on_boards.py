# SPDX-License-Identifier: Apache-2.0
"""The kernels of the dsp and helium sets on emulated boards: the portable kernels' answers, byte for byte.

Those are compared with both oracles in test_operators; the campaign on boards compares these with the oracles too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.operator_cases import fast, others, weighted
from benchmarks.operator_cases.board_kernels import BoardCase, run_cases
from benchmarks.operator_cases.case import Array, Case
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import HostKernels, KernelFaultError, Program, lowered
from converter.c.core.lowering import LOWERINGS
from converter.c.core.program import KernelSet, Target
from edgefleet.boards.toolchains import Kind, Toolchain, find_toolchain
from edgefleet.contracts.errors import MissingProgramError, UnsupportedModelError
from edgefleet.contracts.manifest import Numerics
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import load_profile

pytestmark = pytest.mark.boards

_CASES_OF_A_ROW = {**dict.fromkeys(weighted.ROWS, 24), **dict.fromkeys(fast.ROWS, 40), "add": 6}
_OTHER_CASES = 10
_ROWS: Mapping[str, Callable[[Draw], Case]] = {
    **weighted.ROWS,
    **fast.ROWS,
    **{name: others.ROWS[name] for name in ("average pool", "max pool", "mean", "add")},
}
_NUMERICS: tuple[Numerics, ...] = ("tflm/1", "litert/1")
_BOARDS = [
    ("mps2-an386", "gcc"), ("mps2-an386", "zig"), ("mps2-an500", "gcc"), ("mps2-an505", "zig"),
    ("mps3-an547", "gcc"), ("mps3-an547", "zig"),
]  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A case as one kernel set runs it, and what the portable kernels answer."""

    name: str
    board_case: BoardCase
    wanted: Sequence[Array]


def _drawn() -> Iterator[tuple[Case, Numerics, int]]:
    for row, draw_case in _ROWS.items():
        for seed in range(_CASES_OF_A_ROW.get(row, _OTHER_CASES)):
            yield draw_case(Draw(seed)), _NUMERICS[seed % 2], seed


@pytest.fixture(scope="module")
def tried(host_kernels: HostKernels) -> Callable[[KernelSet], list[Tried]]:
    """Return the cases for a kernel set; they are lowered once for all boards that have it."""

    @cache
    def portable() -> list[tuple[Case, Numerics, int, list[Array]]]:
        found = []
        for case, numerics, seed in _drawn():
            with suppress(UnsupportedModelError):
                parts = lowered(case.graph, Target(numerics, "portable"), LOWERINGS)
                (answers,) = host_kernels.run(Program(case.graph, parts), case.steps[:1])
                found.append((case, numerics, seed, answers))
        return found

    @cache
    def of_set(kernel_set: KernelSet) -> list[Tried]:
        found = (
            Tried(f"{case.row}, seed {seed}", _board_case(case, Target(numerics, kernel_set), seed), answers)
            for case, numerics, seed, answers in portable()
        )
        return [one for one in found if one.board_case.fits]

    return of_set


def _board_case(case: Case, target: Target, seed: int) -> BoardCase:
    """Lower a case; one in three runs over its input, where the kernel allows it."""
    parts = lowered(case.graph, target, LOWERINGS)
    allowed = sorted({place for part in parts.values() for call in part.calls for place in call.in_place})
    return BoardCase(Program(case.graph, parts, over=allowed[0] if allowed and seed % 3 == 0 else None), case.steps[0])


def _toolchain(profile: Profile, compiler: Kind | None = None) -> Toolchain:
    try:
        return find_toolchain(profile.cpu, prefer=compiler)
    except MissingProgramError as error:
        pytest.skip(error.message)


@pytest.mark.parametrize(("board", "compiler"), _BOARDS)
def test_fast_kernels_answer_as_the_portable_ones_and_write_nothing_else(
    board: str, compiler: Kind, tried: Callable[[KernelSet], list[Tried]], tmp_path: Path
) -> None:
    profile = load_profile(board)
    toolchain, ours = _toolchain(profile, compiler), kernel_set(profile)
    cases = tried(ours)
    got = run_cases([one.board_case for one in cases], profile, toolchain, tmp_path)
    wrong = [
        one.name for one, outputs in zip(cases, got, strict=True) if not all(map(np.array_equal, outputs, one.wanted))
    ]
    assert wrong == []
    seen = {call.variant for one in cases for call in one.board_case.program.calls()}
    assert fast.VARIANTS[ours] - seen == set()


def test_a_kernel_that_writes_behind_its_output_is_noticed(tmp_path: Path) -> None:
    profile = load_profile("mps2-an386")
    one = _board_case(weighted.ROWS["fully connected"](Draw(3)), Target("tflm/1", "dsp"), 1)
    (call,) = one.program.calls()
    (first, past), scratch = one.program.writable(call)
    one.program.writable = lambda call: [(first, past - 1), scratch]  # type: ignore[method-assign]
    with pytest.raises(KernelFaultError, match=f"^{call.variant} wrote to {past - 1}$"):
        run_cases([one], profile, _toolchain(profile), tmp_path)
