#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure what each kernel variant adds to an image, for every core that a profile names and both compilers.

    python scripts/write_code_sizes.py

Writes edgefleet/boards/code_sizes.json. Run it after a change of kernels, runtime, start-up or harness; both compilers
must be installed.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.c.core.blob import Blob, Ends, PlacedLayer
from converter.c.core.lowering import Layer
from converter.c.core.memory_plan import MemoryPlan
from converter.c.core.program import Call, Operator, Target
from converter.c.core.source import write_sources
from converter.c.core.variants import RUNTIME_SOURCES, kernel_sources
from edgefleet.boards.elf import Symbol
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import Image
from edgefleet.boards.inference import GeneratedLayer, build_inference
from edgefleet.boards.prediction import CodeSizes, VariantSizes
from edgefleet.boards.toolchains import Toolchain, find_toolchain
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import list_profiles

_TABLE = Path(__file__).parents[1] / "edgefleet" / "boards" / "code_sizes.json"
_ARENA_BYTES = 1024
_BLOB_BYTES = 64
#: What follows a function begins at a multiple of this.
_ALIGNMENT = 4

#: Source file, name, and size: what is the same function in several images.
_Identity = tuple[str, str, int]


@dataclass(frozen=True)
class _Part:
    """A function or constant of an image; a RISC-V linker shortens calls by their distance, so its size may vary."""

    identity: _Identity
    size_bytes: int


@dataclass(frozen=True)
class _Made:
    """A program that calls kernels and has no model, in the shape that the harness takes."""

    name: str
    sources: Mapping[str, str]
    kernel_sources: tuple[str, ...]
    blob: bytes
    arena_bytes: int
    layers: Sequence[GeneratedLayer] = ()


def main() -> None:
    """Measure all cores and write the table."""
    table = [_measured(profile, toolchain) for profile, toolchain in _cores()]
    _TABLE.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    sys.stdout.write(f"{_TABLE}: {len(table)} compilers and cores\n")


def _cores() -> Iterator[tuple[Profile, Toolchain]]:
    seen = set()
    for kind in ("gcc", "zig"):
        for profile in list_profiles():
            if profile.runtime.kind != "tflm" or not profile.memory.regions:
                continue
            toolchain = find_toolchain(profile.cpu, prefer=kind)
            identity = (toolchain.name, toolchain.flags(profile.cpu))
            if identity not in seen:
                seen.add(identity)
                yield profile, toolchain


def _measured(profile: Profile, toolchain: Toolchain) -> CodeSizes:
    kernels = kernel_set(profile)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variants = [*_variants("portable", folder), *(_variants(kernels, folder) if kernels != "portable" else ())]
        empty = _image((), profile, toolchain, folder)
        images = {variant: _image((variant,), profile, toolchain, folder) for variant in variants}
        everything = _image(variants, profile, toolchain, folder)
    base = _parts(empty)
    largest: dict[_Identity, int] = {}
    for part in (part for image in (empty, *images.values(), everything) for part in _parts(image)):
        largest[part.identity] = max(part.size_bytes, largest.get(part.identity, 0))
    numbers = {identity: number for number, identity in enumerate(sorted(largest))}
    stretched_bytes = sum(largest[part.identity] - part.size_bytes for part in base)
    return CodeSizes(
        compiler=toolchain.name,
        flags=toolchain.flags(profile.cpu),
        base_bytes=_code_bytes(empty) + stretched_bytes,
        data_bytes=empty.ram_bytes - _ARENA_BYTES,
        symbol_bytes=tuple(largest[identity] for identity in numbers),
        variants={variant: _variant(image, empty, base, numbers) for variant, image in images.items()},
    )


def _variants(kernels: str, folder: Path) -> list[str]:
    """Return the variants of a kernel set, as its object files define them."""
    core = "cortex-m55" if kernels == "helium" else "cortex-m4"
    flags = ["-O2", "-mthumb", f"-mcpu={core}", f"-mfloat-abi={'hard' if kernels == 'helium' else 'soft'}"]
    sources = sorted((firmware_folder() / "kernels" / kernels).glob("*.[cS]"))
    include = firmware_folder() / "kernels" / "include"
    command = ["arm-none-eabi-gcc", *flags, "-ffreestanding", f"-I{include}", "-c", *map(str, sources)]
    subprocess.run(command, cwd=folder, check=True)
    objects = [f"{source.stem}.o" for source in sources]
    listed = subprocess.run(
        ["arm-none-eabi-nm", "--defined-only", "--extern-only", *objects],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = re.findall(rf" T ef_(\w+?)_{kernels}_(\w+)$", listed, re.MULTILINE)
    return sorted(f"{operator}/{kernels}/{form.replace('_', '-')}" for operator, form in names)


def _variant(image: Image, empty: Image, base: Sequence[_Part], numbers: Mapping[_Identity, int]) -> VariantSizes:
    known = {part.identity for part in base}
    own = [part for part in _parts(image) if part.identity not in known]
    unnamed_bytes = _code_bytes(image) - _code_bytes(empty) - sum(part.size_bytes for part in own)
    return VariantSizes(
        symbols=tuple(sorted({numbers[part.identity] for part in own})), unnamed_bytes=max(0, unnamed_bytes)
    )


def _code_bytes(image: Image) -> int:
    return image.flash_bytes - _BLOB_BYTES


def _parts(image: Image) -> list[_Part]:
    """Return what is stored under a name, the generated code aside."""
    stored = [section for section in image.contents.sections if section.stored]
    named = {
        (symbol.address, symbol.size_bytes): symbol
        for symbol in image.contents.symbols
        if symbol.placed and symbol.size_bytes and not symbol.name.startswith("probe") and symbol.name != "layers"
    }
    return [
        _Part(_identity(symbol, image), -(-symbol.size_bytes // _ALIGNMENT) * _ALIGNMENT)
        for (address, _), symbol in named.items()
        if any(section.address <= address < section.address + section.size_bytes for section in stored)
    ]


def _identity(symbol: Symbol, image: Image) -> _Identity:
    """A name and its file, and the size where linkers leave sizes alone: two files of one name may share that name."""
    shortens = any(flag.startswith("-march=rv") for flag in image.key.flags)
    return symbol.source, symbol.name, 0 if shortens else symbol.size_bytes


def _image(variants: Sequence[str], profile: Profile, toolchain: Toolchain, folder: Path) -> Image:
    operator = Operator(0, "PROBE", (), ())
    layers = tuple(PlacedLayer(Layer(Call(variant, (), (), b""), operator), 128, 0) for variant in variants)
    used = tuple(sorted(set(variants)))
    blob = Blob(bytes(_BLOB_BYTES), layers, 0, 1, used)
    plan = MemoryPlan({}, (), _ARENA_BYTES, 0, 0, 0, proved=True)
    sources = write_sources("probe", blob, plan, Ends((), ()), Target("tflm/1", kernel_set(profile)))
    made = _Made("probe", sources, (*kernel_sources(used), *RUNTIME_SOURCES), blob.data, _ARENA_BYTES)
    image = build_inference(made, profile=profile, toolchain=toolchain, folder=folder).image
    _ = image.contents  # the next image takes its place
    return image


if __name__ == "__main__":
    main()
