# SPDX-License-Identifier: Apache-2.0
"""What a profile's schema cannot say: rules between its fields. Pure; each broken rule is one sentence."""

import re
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from edgefleet.contracts.profile import Profile

_MICROCONTROLLERS = ("armv6-m", "armv7-m", "armv7e-m", "armv8-m.main", "armv8.1-m.main", "rv32imc", "rv32imac")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,4}")
_OPERATOR = re.compile(r"[A-Z][A-Z0-9_]*")
_ADDRESS_SPACE_BYTES = 1 << 32
#: What an interpreter never runs right, or an NPU's compiler does not take: vela crashes on 4-bit weights.
_TFLM_NEVER = ("float16", "dynamic-int8")
_NPU_NEVER = ("float32", *_TFLM_NEVER, "int4")
#: The NPUs that vela 5.2 compiles for.
_NPUS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)


def broken_rules(profile: Profile) -> list[str]:
    """Return one sentence for each rule that a profile breaks, in the order of its fields."""
    return [
        *_memory(profile),
        *_runtime(profile),
        *_precisions(profile),
        *_operators(profile),
        *_budgets(profile),
        *_accelerator(profile),
        *_execution(profile),
        *_sources(profile),
    ]


def _memory(profile: Profile) -> Iterator[str]:
    regions = sorted(profile.memory.regions, key=lambda region: region.origin)
    names = [region.name for region in regions]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"memory.regions names '{name}' twice"
    for low, high in pairwise(regions):
        if low.origin + low.size_bytes > high.origin:
            yield f"memory.regions '{low.name}' and '{high.name}' overlap"
    for region in regions:
        if region.origin + region.size_bytes > _ADDRESS_SPACE_BYTES:
            yield f"memory.regions '{region.name}' ends behind the 32-bit address space"
    if regions and profile.runtime.kind != "tflm":
        yield f"memory.regions are for microcontrollers; runtime.kind is '{profile.runtime.kind}'"


def _runtime(profile: Profile) -> Iterator[str]:
    runtime, architecture = profile.runtime, profile.cpu.architecture
    small = architecture in _MICROCONTROLLERS
    if small != (runtime.kind == "tflm"):
        expected = "'tflm'" if small else "'litert' or 'tflite-runtime'"
        yield f"runtime.kind is '{runtime.kind}', but a board with cpu.architecture '{architecture}' runs {expected}"
    numerics = "tflm/1" if runtime.kind == "tflm" else "litert/1"
    if runtime.numerics != numerics:
        yield f"runtime.numerics is '{runtime.numerics}', but runtime.kind '{runtime.kind}' computes as '{numerics}'"
    if not _VERSION.fullmatch(runtime.version):
        yield f"runtime.version is '{runtime.version}', expected numbers with dots between them"
    if small and profile.memory.flash_bytes is None:
        yield "memory.flash_bytes is missing; a microcontroller keeps its model there"


def _precisions(profile: Profile) -> Iterator[str]:
    for precision in sorted({p for p in profile.precisions if profile.precisions.count(p) > 1}):
        yield f"precisions names '{precision}' twice"
    if profile.accelerator is not None:
        yield from (
            f"precisions has '{precision}', which the NPU '{profile.accelerator.id}' does not compute"
            for precision in profile.precisions
            if precision in _NPU_NEVER
        )
    elif profile.runtime.kind == "tflm":
        yield from (
            f"precisions has '{precision}', which runtime.kind 'tflm' does not run"
            for precision in profile.precisions
            if precision in _TFLM_NEVER
        )


def _operators(profile: Profile) -> Iterator[str]:
    for operator in profile.operators:
        if not _OPERATOR.fullmatch(operator):
            yield f"operators has '{operator}', expected names as TFLite's schema writes them (CONV_2D)"


def _budgets(profile: Profile) -> Iterator[str]:
    budgets, memory = profile.budgets, profile.memory
    if budgets.arena_bytes is not None and budgets.arena_bytes > memory.ram_bytes:
        yield f"budgets.arena_bytes is {budgets.arena_bytes}, over memory.ram_bytes ({memory.ram_bytes})"
    if memory.flash_bytes is not None and (budgets.model_bytes or 0) > memory.flash_bytes:
        yield f"budgets.model_bytes is {budgets.model_bytes}, over memory.flash_bytes ({memory.flash_bytes})"


def _accelerator(profile: Profile) -> Iterator[str]:
    npu = profile.accelerator
    if npu is None:
        return
    if npu.id not in _NPUS:
        yield f"accelerator.id is '{npu.id}', expected one that vela compiles for: {', '.join(_NPUS)}"
    if (npu.system_config is None) != (npu.memory_mode is None):
        given, missing = (
            ("memory_mode", "system_config") if npu.system_config is None else ("system_config", "memory_mode")
        )
        yield f"accelerator.{given} is given without accelerator.{missing}; vela takes both, or neither"


def _execution(profile: Profile) -> Iterator[str]:
    if profile.execution == "emulated" and profile.emulator is None:
        yield "execution is 'emulated', but there is no [emulator]"


def _sources(profile: Profile) -> Iterator[str]:
    document = msgspec.to_builtins(profile)
    for path in sorted(profile.sources):
        if not _names_a_field(path, document):
            yield f"sources names '{path}', and there is no such field"


def _names_a_field(path: str, document: object) -> bool:
    for part in path.split("."):
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True
