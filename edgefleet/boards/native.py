# SPDX-License-Identifier: Apache-2.0
"""Generated code as a Linux program: here, or for arm64 under QEMU's user mode, in the harness that boards have.

Only what code computes is of interest here; nothing is counted.
"""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgefleet.boards.cache import key_of, make_once
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.inference import GeneratedCode, cut_layers, write_generated
from edgefleet.boards.programs import ask, on_path
from edgefleet.boards.toolchains import host_compiler, zig_command
from edgefleet.contracts.errors import BoardError, BuildError, MissingProgramError

Machine = Literal["host", "aarch64"]
_FLAGS = ("-O2", "-std=c99")
_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
_HARNESS = ("boards/inference.c", "boards/posix.c", "kernels/runtime/layer_outputs.c")
_RESET_EACH = 1


@dataclass(frozen=True)
class NativeProgram:
    """A program that runs one model over a batch; ``command`` starts it."""

    command: tuple[str, ...]
    machine: Machine
    layer_bytes: tuple[int, ...]


@dataclass(frozen=True)
class NativeInference:
    """Outputs, sample after sample, and the output of each layer of each sample."""

    outputs: bytes
    layers: tuple[tuple[bytes, ...], ...]


def build_native(generated: GeneratedCode, *, machine: Machine, folder: Path) -> NativeProgram:
    """Build generated code, which must be portable, for this machine or for arm64.

    Raises:
        MissingProgramError: there is no compiler, or for arm64 no QEMU.
        BuildError: it does not compile or link.
        StorageError: the folder cannot be written.
    """
    firmware = firmware_folder()
    sources = [*write_generated(generated, folder), *(firmware / name for name in _HARNESS)]
    defines = {
        "EF_MODEL": generated.name,
        "EF_MODEL_HEADER": f'"{generated.name}.h"',
        "EF_MODEL_ARENA_BYTES": str(generated.arena_bytes),
        "EF_KEEP_LAYERS": "1",
    }
    starter = _starter(machine)
    includes = (folder, firmware / "kernels" / "include", firmware / "boards")
    command = (*_compiler(machine), *_FLAGS, *(f"-D{name}={value}" for name, value in defines.items()))
    texts = (path.read_text(encoding="utf-8") for path in (*sources, *_headers(firmware, folder)))

    def make(unfinished: Path) -> None:
        answer = ask((*command, *(f"-I{place}" for place in includes), *map(str, sources), "-o", str(unfinished)))
        if answer.status:
            raise BuildError(
                f"the generated code does not build for {machine}: {answer.first_error}",
                hint="report the model: generated code should build everywhere",
            )

    program = make_once(f"native/{key_of((machine, *command, *texts))}", make)
    return NativeProgram((*starter, str(program)), machine, tuple(layer.output_bytes for layer in generated.layers))


def _headers(firmware: Path, folder: Path) -> list[Path]:
    return sorted([*firmware.glob("**/*.h"), *folder.glob("*.h")])


def run_native(
    program: NativeProgram,
    inputs: bytes,
    samples: int,
    *,
    folder: Path,
    reset_each: bool = True,
    limit_s: float = 300.0,
) -> NativeInference:
    """Run a batch; ``folder`` is private to this run.

    Raises:
        BoardError: the program failed, took too long, or answered for another number of samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flags = _RESET_EACH if reset_each else 0
    (folder / "inputs").write_bytes(flags.to_bytes(4, "little") + inputs)
    _run(program, folder, limit_s)
    outputs, layers = (folder / "outputs").read_bytes(), (folder / "layers").read_bytes()
    if not outputs or len(outputs) % samples or len(layers) != sum(program.layer_bytes) * samples:
        raise BoardError(
            f"the program for {program.machine} answered {samples} samples with {len(outputs):,} bytes of outputs",
            hint="give whole samples of the model's input type, and room on the disk",
        )
    return NativeInference(outputs, cut_layers(layers, program.layer_bytes, samples))


def _run(program: NativeProgram, folder: Path, limit_s: float) -> None:
    try:
        done = subprocess.run(program.command, cwd=folder, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise BoardError(
            f"the program for {program.machine} took longer than {limit_s:g} s and was stopped",
            hint="give fewer samples, or try again on a machine that is less busy",
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise BoardError(
            f"the program for {program.machine} ended with {done.returncode}" + (f": {said[:120]}" if said else ""),
            hint="report the model: generated code should run everywhere",
        )


def _compiler(machine: Machine) -> Sequence[str]:
    if machine == "host":
        return host_compiler().command
    zig = zig_command()
    if zig is None:
        raise MissingProgramError(
            "there is no compiler for arm64: zig is not installed", hint="run: pip install 'edgefleet[mcu]'"
        )
    return (*zig, "cc", "-target", "aarch64-linux-musl", "-static")


def _starter(machine: Machine) -> tuple[str, ...]:
    if machine == "host" or platform.machine() == "aarch64":
        return ()
    for name in _EMULATORS:
        if path := on_path(name):
            return (path,)
    raise MissingProgramError("'qemu-aarch64' is not installed", hint="run: apt-get install qemu-user")
