# SPDX-License-Identifier: Apache-2.0
"""The portable kernels on this machine: compiled to a shared library, and run call by call over a guarded arena."""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.c.core.program import Call, Graph, Lowered, Operand, Operator, Target, Value

Array = npt.NDArray[Any]
KERNELS = Path(__file__).resolve().parents[2] / "firmware" / "kernels"
_FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wconversion")
_SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_GUARD_BYTES, _OLD = 32, 0x5A
_DTYPES = {"int8": np.int8, "int32": np.int32, "float32": np.float32}


class KernelFaultError(AssertionError):
    """A kernel wrote where it may not."""


def build(folder: Path, *, sanitized: bool = False) -> Path:
    """Compile all portable kernels into a library in the folder, and return its path."""
    library = folder / ("kernels-sanitized.so" if sanitized else "kernels.so")
    sources = sorted((KERNELS / "portable").glob("*.c"))
    flags = (*_FLAGS, *(_SANITIZERS if sanitized else ()), "-I", str(KERNELS / "include"))
    subprocess.run(["cc", *flags, *map(str, sources), "-o", str(library)], check=True)
    return library


def sanitizer_environment() -> dict[str, str]:
    """Return the environment in which a Python process can load the sanitized library."""
    runtime = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


class Program:
    """A graph's calls with every tensor at a place of its own; guard bytes lie behind each.

    With ``over`` the outputs of calls that allow it take the memory of their input at that place.
    """

    def __init__(self, graph: Graph, lowered: Mapping[int, Lowered], *, over: int | None = None) -> None:
        self.graph = graph
        self._order = [*graph.once, *graph.operators]
        self._lowered = lowered
        self._aliases: dict[Operand, Operand] = {
            number: source for part in lowered.values() for number, source in part.aliases.items()
        }
        self._bytes: dict[Operand, int] = {}
        for part in lowered.values():
            self._bytes.update(part.temporaries)
            self._bytes.update(part.states)
        self._states = {name for part in lowered.values() for name in part.states}
        if over is not None:
            self._share_memory(over)
        self.places: dict[Operand, int] = {}
        self.arena_bytes = 0
        for operand in self._operands():
            self._place(operand)
        self._scratch_at = self.arena_bytes
        self.arena_bytes += max([call.scratch_bytes for call in self.calls()], default=0) + _GUARD_BYTES

    def calls(self, operators: Sequence[Operator] | None = None) -> Iterator[Call]:
        """Return all calls, or those of some operators, in order."""
        for operator in self._order if operators is None else operators:
            yield from self._lowered[operator.number].calls

    def first(self) -> Iterator[Call]:
        """Return what runs when the arena is bound."""
        for part in self._lowered.values():
            yield from part.first
        yield from self.calls(self.graph.once)

    def root(self, operand: Operand) -> Operand:
        """Return the operand whose memory this one has."""
        while operand in self._aliases:
            operand = self._aliases[operand]
        return operand

    def layer(self, call: Call) -> bytes:
        """Return the parameters of a call."""
        offsets = [self.places[self.root(operand)] for operand in (*call.inputs, *call.outputs)]
        return np.array([*offsets, self._scratch_at], "<u4").tobytes() + call.body

    def writable(self, call: Call) -> list[tuple[int, int]]:
        """Return what a call may write, as first and past byte."""
        roots = [self.root(operand) for operand in call.outputs]
        scratch = (self._scratch_at, self._scratch_at + call.scratch_bytes)
        return [(self.places[root], self.places[root] + self.size(root)) for root in roots] + [scratch]

    def size(self, operand: Operand) -> int:
        """Return the bytes of an operand's own memory."""
        return self._bytes[operand] if isinstance(operand, str) else tensor_bytes(self.graph.values[operand])

    @property
    def state_ranges(self) -> list[tuple[int, int]]:
        """Where state variables lie."""
        return [(self.places[name], self.places[name] + self._bytes[name]) for name in self._states]

    def _share_memory(self, place: int) -> None:
        for call in self.calls():
            if place in call.in_place:
                source, made = call.inputs[place], call.outputs[0]
                if self.size(made) <= self.size(source) and self.root(source) not in self._states:
                    self._aliases[made] = source

    def _operands(self) -> Iterator[Operand]:
        yield from self.graph.inputs
        yield from self.graph.outputs
        for call in self.calls():
            yield from (*call.inputs, *call.outputs)
        yield from self._states

    def _place(self, operand: Operand) -> None:
        root = self.root(operand)
        if root not in self.places:
            self.places[root] = self.arena_bytes
            self.arena_bytes += -(-self.size(root) // 16) * 16 + _GUARD_BYTES


def tensor_bytes(value: Value) -> int:
    """Return the bytes of a tensor."""
    return int(np.prod(value.shape, dtype=np.int64)) * np.dtype(_DTYPES[value.dtype]).itemsize


class HostKernels:
    """The loaded library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def call(self, variant: str, layer: bytes, arena: Array) -> None:
        """Run one kernel on an arena."""
        aligned = np.zeros(-(-len(layer) // 8), np.uint64)
        aligned.view(np.uint8)[: len(layer)] = np.frombuffer(layer, np.uint8)
        kernel = self._library[f"ef_{variant.replace('/', '_').replace('-', '_')}"]
        kernel.restype = None
        kernel(ctypes.c_void_p(aligned.ctypes.data), ctypes.c_void_p(arena.ctypes.data))

    def run(self, program: Program, steps: Sequence[Sequence[Array]]) -> list[list[Array]]:
        """Run a program from its first state over steps of inputs, and return its outputs.

        Raises:
            KernelFaultError: a kernel wrote outside of its outputs and scratch.
        """
        whole = np.full(program.arena_bytes + 16, _OLD, np.uint8)
        first = -whole.ctypes.data % 16
        arena = whole[first : first + program.arena_bytes]
        for begin, end in program.state_ranges:
            arena[begin:end] = 0
        self._run_calls(program, program.first(), arena)
        return [self._step(program, arena, step) for step in steps]

    def _step(self, program: Program, arena: Array, step: Sequence[Array]) -> list[Array]:
        for number, array in zip(program.graph.inputs, step, strict=True):
            at = program.places[program.root(number)]
            arena[at : at + array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._run_calls(program, program.calls(program.graph.operators), arena)
        return [_read(program, arena, number) for number in program.graph.outputs]

    def _run_calls(self, program: Program, calls: Iterable[Call], arena: Array) -> None:
        for call in calls:
            before = arena.copy()
            self.call(call.variant, program.layer(call), arena)
            for begin, end in program.writable(call):
                before[begin:end] = arena[begin:end]
            if not np.array_equal(before, arena):
                raise KernelFaultError(f"{call.variant} wrote to {np.flatnonzero(before != arena)[:8].tolist()}")


def _read(program: Program, arena: Array, number: int) -> Array:
    value = program.graph.values[number]
    at = program.places[program.root(number)]
    return arena[at : at + tensor_bytes(value)].view(_DTYPES[value.dtype]).reshape(value.shape).copy()


def lowered(graph: Graph, target: Target, lowerings: Mapping[str, Any]) -> dict[int, Lowered]:
    """Return what each operator becomes, by its number."""
    return {
        operator.number: lowerings[operator.name](operator, graph, target)
        for operator in (*graph.once, *graph.operators)
    }
