# SPDX-License-Identifier: Apache-2.0
"""Exact counts from an emulated board: the plugin that makes them, and what it writes.

QEMU executes instructions and knows nothing of cycles, so counts are the same in every run, on every host and in every
release of QEMU; :mod:`edgefleet.boards.cost` turns them into an estimate of cycles.
"""

from dataclasses import dataclass
from pathlib import Path

from edgefleet.boards.cache import key_of, make_once
from edgefleet.boards.programs import ask
from edgefleet.boards.qemu import Qemu
from edgefleet.boards.toolchains import HostCompiler, host_compiler
from edgefleet.contracts.errors import BoardError, BuildError

_SOURCE = Path(__file__).with_name("counter.c")
_FLAGS = ("-O2", "-std=c99", "-shared", "-fPIC", "-fvisibility=hidden")


@dataclass(frozen=True)
class Counts:
    """What one run or layer took: instructions; words (4 bytes) loaded and stored; bytes of stack at its deepest."""

    instructions: int
    loads: int
    stores: int
    stack_bytes: int

    def most(self, other: "Counts") -> "Counts":
        """Return the larger of each figure."""
        return Counts(
            max(self.instructions, other.instructions),
            max(self.loads, other.loads),
            max(self.stores, other.stores),
            max(self.stack_bytes, other.stack_bytes),
        )


@dataclass(frozen=True)
class RunCounts:
    """One run, and its layers in order."""

    total: Counts
    layers: tuple[Counts, ...]


@dataclass(frozen=True)
class CountLog:
    """All that a board did between markers: ``init`` (where there was one) and each run."""

    init: Counts | None
    runs: tuple[RunCounts, ...]


def counter_plugin(qemu: Qemu) -> Path:
    """Return the compiled plugin for this QEMU; it is made once.

    Raises:
        MissingProgramError: this machine has no C compiler.
        BuildError: the compiler refuses it.
    """
    compiler = host_compiler()
    source = _SOURCE.read_bytes()
    name = f"plugins/{key_of((source, compiler.version, *_FLAGS, str(qemu.plugin_api)))}.so"
    return make_once(name, lambda unfinished: _compile(compiler, qemu.plugin_api, unfinished))


def _compile(compiler: HostCompiler, api: int, unfinished: Path) -> None:
    answer = ask((*compiler.command, *_FLAGS, f"-DAPI={api}", str(_SOURCE), "-o", str(unfinished)))
    if answer.status:
        raise BuildError(
            f"the counting plugin does not compile with {compiler.version}: {answer.first_error}",
            hint="install a C compiler for this machine: apt-get install gcc libc6-dev",
        )


def parse_counts(text: str) -> CountLog:
    """Read what the plugin wrote.

    Raises:
        BoardError: a line is damaged.
    """
    init: Counts | None = None
    runs: list[RunCounts] = []
    layers: list[Counts] = []
    for line in text.splitlines():
        what, counts = _line(line)
        if what == "layer":
            layers.append(counts)
            continue
        if what == "init":
            init = counts
        else:
            runs.append(RunCounts(counts, tuple(layers)))
        layers = []
    return CountLog(init, tuple(runs))


def _line(line: str) -> tuple[str, Counts]:
    try:
        what, _, *figures = line.split()
        instructions, loads, stores, stack_bytes = (int(figure) for figure in figures)
    except ValueError as error:
        raise _damaged(line) from error
    if what not in {"layer", "init", "run"}:
        raise _damaged(line)
    return what, Counts(instructions, loads, stores, stack_bytes)


def _damaged(line: str) -> BoardError:
    return BoardError(
        f"the instruction counter wrote a line that cannot be read: {line[:80]!r}",
        hint="run it again, with room on the disk",
    )
