# SPDX-License-Identifier: Apache-2.0
"""Kernels on an emulated board: programs of many cases in one file, run in one boot of ``kernel_cases.c``."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.operator_cases.host_kernels import Array, KernelFaultError, Program, tensor_bytes
from converter.c.core.variants import function_name, kernel_sources
from edgefleet.boards.emulator import boot
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import Image, build
from edgefleet.boards.toolchains import Toolchain
from edgefleet.contracts.profile import Profile

_UNHARMED = 0xFFFFFFFF
#: What kernel_cases.c has room for.
ARENA_BYTES, LAYERS_BYTES = 256 * 1024, 512 * 1024


@dataclass(frozen=True)
class BoardCase:
    """A program that needs no first values, and its inputs."""

    program: Program
    inputs: tuple[Array, ...]

    @property
    def fits(self) -> bool:
        """Whether the board's program has room for it."""
        layers = sum(len(self.program.layer(call)) + 16 for call in self.program.calls())
        return self.program.arena_bytes <= ARENA_BYTES and layers <= LAYERS_BYTES

    def document(self, kernels: Sequence[str]) -> bytes:
        """Return the case as kernel_cases.c reads it."""
        program = self.program
        calls = list(program.calls())
        writable = [part for call in calls for part in program.writable(call)]
        head = (program.arena_bytes, len(calls), len(self.inputs), len(writable), len(program.graph.outputs))
        parts = [struct.pack("<5I", *head)]
        for call in calls:
            layer = _in_fours(program.layer(call))
            parts.append(struct.pack("<2I", kernels.index(call.variant), len(layer)) + layer)
        for number, array in zip(program.graph.inputs, self.inputs, strict=True):
            data = _in_fours(np.ascontiguousarray(array).tobytes())
            parts.append(struct.pack("<2I", program.places[program.root(number)], len(data)) + data)
        parts += [struct.pack("<2I", first, past - first) for first, past in writable]
        parts += [struct.pack("<2I", *place) for place in self._outputs()]
        return b"".join(parts)

    def answers(self, written: bytes) -> list[Array]:
        """Return the outputs from what the board wrote for the case.

        Raises:
            KernelFaultError: a kernel wrote outside of its outputs and scratch.
        """
        (harm,) = struct.unpack_from("<I", written)
        if harm != _UNHARMED:
            names = ", ".join(call.variant for call in self.program.calls())
            raise KernelFaultError(f"{names} wrote to {harm}")
        values = [self.program.graph.values[number] for number in self.program.graph.outputs]
        parts, at = [], 4
        for value, (_, size_bytes) in zip(values, self._outputs(), strict=True):
            parts.append(np.frombuffer(written[at : at + size_bytes], value.dtype).reshape(value.shape))
            at += size_bytes
        return parts

    @property
    def answer_bytes(self) -> int:
        """The bytes that the board writes for it."""
        return 4 + sum(size_bytes for _, size_bytes in self._outputs())

    def _outputs(self) -> Iterator[tuple[int, int]]:
        for number in self.program.graph.outputs:
            yield self.program.places[self.program.root(number)], tensor_bytes(self.program.graph.values[number])


def build_cases(kernels: Sequence[str], profile: Profile, toolchain: Toolchain, folder: Path) -> Image:
    """Build the image that tries these kernel variants."""
    table = folder / "case_kernels.c"
    names = [function_name(kernel) for kernel in kernels]
    declared = "".join(f"void {name}(const void *, uint8_t *);\n" for name in names)
    listed = "".join(f"    {name},\n" for name in names)
    table.write_text(
        f"#include <edgefleet/kernels.h>\n{declared}const ef_kernel ef_case_kernels[] = {{\n{listed}}};\n",
        encoding="utf-8",
    )
    firmware = firmware_folder()
    sources = [firmware / "kernels" / name for name in kernel_sources(kernels)]
    return build(
        [firmware / "boards" / "kernel_cases.c", table, *sources],
        profile=profile, toolchain=toolchain, folder=folder,
    )  # fmt: skip


def run_cases(cases: Sequence[BoardCase], profile: Profile, toolchain: Toolchain, folder: Path) -> list[list[Array]]:
    """Run cases on a board and return the outputs of each.

    Raises:
        KernelFaultError: a kernel wrote where it may not, or the board did not run to its end.
    """
    kernels = sorted({call.variant for case in cases for call in case.program.calls()})
    image = build_cases(kernels, profile, toolchain, folder)
    (folder / "cases.bin").write_bytes(b"".join(case.document(kernels) for case in cases))
    with boot(image, profile, folder=folder, timeout_s=300) as board:
        code = board.wait()
    written = (folder / "outputs.bin").read_bytes()
    if code or len(written) != sum(case.answer_bytes for case in cases):
        raise KernelFaultError(f"{profile.id} ended with {code} after {len(written)} bytes: {board.output}")
    answers, at = [], 0
    for case in cases:
        answers.append(case.answers(written[at : at + case.answer_bytes]))
        at += case.answer_bytes
    return answers


def _in_fours(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
