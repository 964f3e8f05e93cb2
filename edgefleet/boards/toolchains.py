# SPDX-License-Identifier: Apache-2.0
"""Compilers for microcontrollers and for this machine, and what to tell them for each core.

Two compilers serve: GCC as Debian packages it for Arm and RISC-V, and zig (a whole clang with every target) from PyPI.
Neither needs a C library: start-up and memory functions are ours.
"""

import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

from edgefleet.boards.programs import ask, on_path
from edgefleet.contracts.errors import IncompatibleError, MissingProgramError
from edgefleet.contracts.profile import Cpu

Kind = Literal["gcc", "zig"]
Family = Literal["arm", "riscv"]

#: -ffreestanding, or GCC looks for a C library's stdint.h; -fbuiltin, or it calls memcpy for four bytes.
_ALWAYS = (
    *("-O2", "-std=c99", "-ffreestanding", "-fbuiltin", "-ffunction-sections", "-fdata-sections"),
    *("-fomit-frame-pointer", "-fno-exceptions", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
)
#: For Arm, clang unrolls what kernels have not: a third more code, and not a percent faster.
_ROLLED = ("-fno-unroll-loops",)
#: A jump through a register is then a call, and the stack has a bound.
_RISCV = ("-fno-jump-tables",)
#: GCC's prefix and Debian's package of each family.
_GCC: dict[Family, tuple[str, str]] = {
    "arm": ("arm-none-eabi-", "gcc-arm-none-eabi"),
    "riscv": ("riscv64-unknown-elf-", "gcc-riscv64-unknown-elf"),
}
#: Floating-point registers that zig would use unless told not to: the ABI is soft, as an RTOS task without FPU has it.
_NO_FPU = {
    "cortex_m4": "-vfp4d16sp-fp16-vfp2sp-vfp3d16sp-fpregs",
    "cortex_m7": "-fp_armv8d16-fp_armv8d16sp-vfp2-vfp3d16-vfp4d16-fpregs",
    "cortex_m33": "-fp_armv8d16sp-vfp4d16sp-vfp3d16sp-vfp2sp-fpregs",
}
#: Cores that GCC 12 does not know, by what it calls their architecture.
_GCC_ARCHITECTURE = {"cortex-m85": ("-march=armv8.1-m.main+mve.fp+fp.dp", "-mtune=cortex-m55")}


@dataclass(frozen=True)
class Toolchain:
    """A compiler that makes code for one family of processors; ``command`` takes sources and links too."""

    kind: Kind
    command: tuple[str, ...]
    version: str
    family: Family

    @property
    def name(self) -> str:
        """The compiler and its version, for people."""
        return f"{self.kind} {self.version}"

    @property
    def objdump(self) -> str:
        """The disassembler that belongs to GCC; zig brings none, so it takes GCC's too."""
        return _GCC[self.family][0] + "objdump"

    def flags(self, cpu: Cpu) -> tuple[str, ...]:
        """Everything that decides what code becomes of a source, sources and folders aside."""
        return (*_ALWAYS, *(_gcc_flags(cpu) if self.kind == "gcc" else _zig_flags(cpu)))


@dataclass(frozen=True)
class HostCompiler:
    """A compiler for this machine."""

    command: tuple[str, ...]
    version: str


def family_of(cpu: Cpu) -> Family:
    """Return which compilers and emulators a microcontroller's processor needs.

    Raises:
        IncompatibleError: it is no microcontroller.
    """
    if cpu.architecture.startswith("armv") and "-m" in cpu.architecture:
        return "arm"
    if cpu.architecture.startswith("rv32"):
        return "riscv"
    raise IncompatibleError(
        f"'{cpu.architecture}' is no microcontroller's architecture: got core '{cpu.core}'",
        hint="name the profile of a Cortex-M or RV32 board; 'edgefleet profiles list' shows them",
    )


def find_toolchain(cpu: Cpu, *, prefer: Kind | None = None) -> Toolchain:
    """Return GCC for the processor's family, or zig where there is no GCC; ``prefer`` takes that one or none.

    Raises:
        MissingProgramError: no compiler is installed, or not the one that is asked for.
        IncompatibleError: the processor is no microcontroller's.
    """
    family = family_of(cpu)
    for kind in (prefer,) if prefer else ("gcc", "zig"):
        found = _gcc(family) if kind == "gcc" else _zig(family)
        if found is not None:
            return found
    raise _missing(family, prefer)


def _missing(family: Family, prefer: Kind | None) -> MissingProgramError:
    prefix, package = _GCC[family]
    gcc = f"apt-get install {package}"
    zig = "pip install 'edgefleet[mcu]'"
    if prefer == "gcc":
        return MissingProgramError(f"'{prefix}gcc' is not installed", hint=f"run: {gcc}")
    if prefer == "zig":
        return MissingProgramError("the compiler zig is not installed", hint=f"run: {zig}")
    return MissingProgramError(
        f"there is no compiler for the board: neither '{prefix}gcc' nor zig is installed", hint=f"run: {gcc}, or: {zig}"
    )


@cache
def _gcc_at(path: str, family: Family) -> Toolchain:
    return Toolchain("gcc", (path,), ask((path, "-dumpfullversion")).text.strip(), family)


def _gcc(family: Family) -> Toolchain | None:
    path = on_path(_GCC[family][0] + "gcc")
    return None if path is None else _gcc_at(path, family)


def _zig(family: Family) -> Toolchain | None:
    command = zig_command()
    return None if command is None else Toolchain("zig", (*command, "cc"), _zig_version(command), family)


def zig_command() -> tuple[str, ...] | None:
    """Return PyPI's zig in this environment, or one on PATH; nothing where there is neither."""
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang")
    path = on_path("zig")
    return None if path is None else (path,)


@cache
def _zig_version(command: tuple[str, ...]) -> str:
    return ask((*command, "version")).text.strip()


def _gcc_flags(cpu: Cpu) -> tuple[str, ...]:
    if family_of(cpu) == "riscv":
        return (f"-march={cpu.architecture}", "-mabi=ilp32", "-mcmodel=medany", *_RISCV)
    core = _GCC_ARCHITECTURE.get(cpu.core) or (f"-mcpu={cpu.core}{_without_dsp(cpu)}",)
    return (*core, "-mthumb", f"-mfloat-abi={_float_abi(cpu)}")


def _zig_flags(cpu: Cpu) -> tuple[str, ...]:
    if family_of(cpu) == "riscv":
        extensions = "+".join(cpu.architecture.removeprefix("rv32i"))
        return ("-target", "riscv32-freestanding-none", f"-mcpu=generic_rv32+{extensions}", "-mcmodel=medany", *_RISCV)
    core = cpu.core.replace("-", "_")
    if _float_abi(cpu) == "hard":
        return ("-target", "thumb-freestanding-eabihf", f"-mcpu={core}+mve+mve_fp", *_ROLLED)
    dsp = "+dsp" if "dsp" in cpu.features and core in {"cortex_m7", "cortex_m33"} else ""
    return ("-target", "thumb-freestanding-eabi", f"-mcpu={core}{dsp}{_NO_FPU.get(core, '')}", *_ROLLED)


def _without_dsp(cpu: Cpu) -> str:
    """Where the instructions are an option of the core, and this board has not taken it."""
    return "+nodsp" if cpu.core == "cortex-m33" and "dsp" not in cpu.features else ""


def _float_abi(cpu: Cpu) -> str:
    """Helium's intrinsics need the hard one."""
    return "hard" if "mve" in cpu.features else "soft"


def host_compiler() -> HostCompiler:
    """Return a compiler for this machine: gcc, cc, clang, or zig.

    Raises:
        MissingProgramError: there is none.
    """
    for name in ("gcc", "cc", "clang"):
        if path := on_path(name):
            return _host(path)
    if command := zig_command():
        return HostCompiler((*command, "cc"), f"zig {_zig_version(command)}")
    raise MissingProgramError(
        "there is no C compiler for this machine: none of gcc, cc, clang and zig is installed",
        hint="run: apt-get install gcc libc6-dev, or: pip install 'edgefleet[mcu]'",
    )


@cache
def _host(path: str) -> HostCompiler:
    return HostCompiler((path,), ask((path, "--version")).text.splitlines()[0].strip())
