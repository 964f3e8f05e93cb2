# SPDX-License-Identifier: Apache-2.0
"""The schema of a profile: the facts about one board, as a TOML file states them."""

from typing import Annotated, Literal

import msgspec

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.manifest import Budgets, Fact, Numerics, Positive, RuntimeKind
from edgefleet.contracts.names import Name

Precision = Literal["float32", "float16", "dynamic-int8", "int8", "int16x8", "mixed"]


class Cpu(Fact, frozen=True, kw_only=True):
    """The processor: ``architecture`` as ``uname -m`` says it, or the Arm or RISC-V profile of a microcontroller."""

    architecture: Literal["x86_64", "aarch64", "armv7l", "armv7e-m", "armv8-m.main", "armv8.1-m.main", "rv32imac"]
    core: str
    cores: Positive = 1
    clock_hz: Positive | None = None
    features: tuple[str, ...] = ()


class MemoryRegion(Fact, frozen=True, kw_only=True):
    """One region of a microcontroller's memory map, in bytes."""

    name: str
    origin: Annotated[int, msgspec.Meta(ge=0)]
    size_bytes: Positive


class Memory(Fact, frozen=True, kw_only=True):
    """What the board has, in bytes; ``regions`` only where a linker needs them."""

    ram_bytes: Positive
    flash_bytes: Positive | None = None
    regions: tuple[MemoryRegion, ...] = ()


class RuntimeFacts(Fact, frozen=True, kw_only=True):
    """The interpreter on the board: kind, the release installed there, numerics mode and kernel set."""

    kind: RuntimeKind
    version: str
    numerics: Numerics
    kernels: str = "default"


class Emulator(Fact, frozen=True, kw_only=True):
    """How QEMU stands in for the board."""

    program: str
    machine: str
    cpu: str | None = None


class Profile(Fact, frozen=True, kw_only=True):
    """Everything EdgeFleet knows of one board.

    ``precisions`` lists what the board's runtime runs right, the preferred one first. ``swap`` says whether two
    models fit beside each other during an update (``resident``) or not (``cold``).
    """

    format_version: Literal[1]
    id: Name
    title: str
    cpu: Cpu
    memory: Memory
    runtime: RuntimeFacts
    precisions: Annotated[tuple[Precision, ...], msgspec.Meta(min_length=1)]
    operators: tuple[str, ...] = ()
    budgets: Budgets = Budgets()
    swap: Literal["resident", "cold"] = "resident"
    emulator: Emulator | None = None


def compat_hash(profile: Profile) -> str:
    """Return the SHA-256 over what makes a model run on a board.

    That is: CPU architecture and features, memory map, runtime kind, numerics and kernel set. Budgets, titles, clock
    and the runtime's release (which the bundle's minimum version answers) are outside it.
    """
    facts = {
        "architecture": profile.cpu.architecture,
        "features": sorted(profile.cpu.features),
        "regions": msgspec.to_builtins(profile.memory.regions),
        "runtime": profile.runtime.kind,
        "numerics": profile.runtime.numerics,
        "kernels": profile.runtime.kernels,
    }
    return sha256_hex(canonical_json(facts))
