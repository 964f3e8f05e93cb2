# SPDX-License-Identifier: Apache-2.0
"""The schema of a profile: the facts about one board, as a TOML file states them."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.manifest import Budgets, Fact, Numerics, Positive, Precision, RuntimeKind, Share
from edgefleet.contracts.names import Name


class Cpu(Fact, frozen=True, kw_only=True):
    """The processor: ``architecture`` as ``uname -m`` says it, or the Arm or RISC-V profile of a microcontroller."""

    architecture: Literal[
        "x86_64",
        "aarch64",
        "armv7l",
        "armv6-m",
        "armv7-m",
        "armv7e-m",
        "armv8-m.base",
        "armv8-m.main",
        "armv8.1-m.main",
        "rv32imc",
        "rv32imac",
    ]
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


class AcceleratorFacts(Fact, frozen=True, kw_only=True):
    """An NPU: its id as vela names it, vela's system configuration and memory mode, and the least useful share.

    A model of which less than ``minimum_npu_share`` of the operators run on the NPU is refused.
    """

    id: Name
    system_config: str | None = None
    memory_mode: str | None = None
    minimum_npu_share: Share = 0.5


class Emulator(Fact, frozen=True, kw_only=True):
    """How QEMU stands in for the board."""

    program: str
    machine: str
    cpu: str | None = None


class Profile(Fact, frozen=True, kw_only=True):
    """Everything EdgeFleet knows of one board.

    ``precisions`` lists what the board's runtime runs right, the preferred one first. ``swap`` says whether two
    models fit beside each other during an update (``resident``) or not (``cold``). ``execution`` says how code for the
    board is tried here: run on a machine of its kind, run in QEMU, or compiled and measured and not run. ``sources``
    says where each fact comes from, by the field's path or the path of what it is part of (``memory.regions``).
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
    accelerator: AcceleratorFacts | None = None
    swap: Literal["resident", "cold"] = "resident"
    emulator: Emulator | None = None
    execution: Literal["native", "emulated", "compiled-only"] = "compiled-only"
    sources: Mapping[str, str] = {}


def kernel_set(profile: Profile) -> Literal["portable", "dsp", "helium"]:
    """Return the kernels that a microcontroller's code is generated for.

    ``runtime.kernels`` says so (``edgefleet-portable``, ``edgefleet-dsp``, ``edgefleet-helium``); for any other word
    the processor's features do: Helium where it has ``mve``, the DSP extension's where it has ``dsp``.
    """
    match profile.runtime.kernels:
        case "edgefleet-helium":
            return "helium"
        case "edgefleet-dsp":
            return "dsp"
        case "edgefleet-portable":
            return "portable"
    if "mve" in profile.cpu.features:
        return "helium"
    return "dsp" if "dsp" in profile.cpu.features else "portable"


def compat_hash(profile: Profile) -> str:
    """Return the SHA-256 over what makes a model run on a board.

    That is: CPU architecture and features, memory map, runtime kind, numerics, kernel set and accelerator. Budgets,
    titles, clock and the runtime's release (which the bundle's minimum version answers) are outside it.
    """
    facts: dict[str, object] = {
        "architecture": profile.cpu.architecture,
        "features": sorted(profile.cpu.features),
        "regions": msgspec.to_builtins(profile.memory.regions),
        "runtime": profile.runtime.kind,
        "numerics": profile.runtime.numerics,
        "kernels": profile.runtime.kernels,
    }
    if profile.accelerator is not None:
        facts["accelerator"] = profile.accelerator.id
    return sha256_hex(canonical_json(facts))
