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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.c.core.blob import Blob, Ends, PlacedLayer
from converter.c.core.lowering import Layer
from converter.c.core.memory_plan import MemoryPlan
from converter.c.core.program import Call, Operator, Target
from converter.c.core.source import write_sources
from converter.c.core.variants import RUNTIME_SOURCES, kernel_sources
from edgefleet.boards.elf import Section, Symbol
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import Image
from edgefleet.boards.inference import GeneratedLayer, build_inference
from edgefleet.boards.prediction import CodeSizes, EmptyImage, VariantSizes, table_bytes
from edgefleet.boards.toolchains import Toolchain, find_toolchain
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import list_profiles

_TABLE = Path(__file__).parents[1] / "edgefleet" / "boards" / "code_sizes.json"
#: Sizes that no short instruction can name, as far as the first profiles of each core have room for them.
_ARENA_BYTES = {False: 0x1230, True: 0x12340}
_BLOB_BYTES = 0x12350
_LARGE_RAM_BYTES = 0x20000
#: What follows a constant or a function begins at a multiple of this; RISC-V's functions lie closer together.
_ALIGNMENT, _RISCV_CODE_ALIGNMENT = 4, 2
#: Code and constants both end at a multiple of 8, and in the empty image either may happen to need no padding; padding
#: that a variant's own image lacks may also hide one word of its constants that have no name.
_PADDING_BYTES = 3 * 4

#: What the generated program defines beside names that begin with its own.
_TABLES = ("layers", "variants")

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
        updatable = _image((), profile, toolchain, folder, updatable=True)
        everything, all_updatable = (
            _image(variants, profile, toolchain, folder, updatable=change) for change in (False, True)
        )
    largest = _largest((empty, *images.values(), everything))
    numbers = {identity: number for number, identity in enumerate(sorted(largest))}
    base = _parts(empty)
    return CodeSizes(
        compiler=toolchain.name,
        flags=toolchain.flags(profile.cpu),
        static=_empty(empty, largest, profile, updatable=False),
        updatable=_empty(updatable, _largest((updatable, all_updatable)), profile, updatable=True),
        symbol_bytes=tuple(largest[identity] for identity in numbers),
        variants={variant: _variant(image, empty, base, numbers) for variant, image in images.items()},
    )


def _largest(images: Iterable[Image]) -> dict[_Identity, int]:
    largest: dict[_Identity, int] = {}
    for part in (part for image in images for part in _parts(image)):
        largest[part.identity] = max(part.size_bytes, largest.get(part.identity, 0))
    return largest


def _empty(image: Image, largest: Mapping[_Identity, int], profile: Profile, *, updatable: bool) -> EmptyImage:
    stretched_bytes = sum(largest[part.identity] - part.size_bytes for part in _parts(image))
    tables = table_bytes(0, 0, updatable=updatable)
    return EmptyImage(
        code_bytes=_code_bytes(image) - tables + stretched_bytes + _PADDING_BYTES,
        data_bytes=image.ram_bytes - _arena_bytes(profile),
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
    return VariantSizes(
        symbols=tuple(sorted({numbers[part.identity] for part in own})),
        unnamed_bytes=max(0, _unnamed_bytes(image) - _unnamed_bytes(empty)),
    )


def _unnamed_bytes(image: Image) -> int:
    return _code_bytes(image) - sum(part.size_bytes for part in _parts(image))


def _code_bytes(image: Image) -> int:
    return image.flash_bytes - _BLOB_BYTES


def _parts(image: Image) -> list[_Part]:
    """Return what is stored under a name, the generated code aside."""
    stored = [section for section in image.contents.sections if section.stored]
    named = {
        (symbol.address, symbol.size_bytes): symbol
        for symbol in image.contents.symbols
        if symbol.placed and symbol.size_bytes and not symbol.name.startswith("probe") and symbol.name not in _TABLES
    }
    return [
        _Part(_identity(symbol, image), _aligned(symbol.size_bytes, section, image))
        for (address, _), symbol in named.items()
        for section in stored
        if section.address <= address < section.address + section.size_bytes
    ]


def _aligned(size_bytes: int, section: Section, image: Image) -> int:
    alignment = _RISCV_CODE_ALIGNMENT if section.executable and _is_riscv(image) else _ALIGNMENT
    return -(-size_bytes // alignment) * alignment


def _is_riscv(image: Image) -> bool:
    return any(flag.startswith("-march=rv") or "riscv" in flag for flag in image.key.flags)


def _identity(symbol: Symbol, image: Image) -> _Identity:
    """A name and its file, and the size where linkers leave sizes alone: two files of one name may share that name."""
    return symbol.source, symbol.name, 0 if _is_riscv(image) else symbol.size_bytes


def _arena_bytes(profile: Profile) -> int:
    return _ARENA_BYTES[profile.memory.ram_bytes >= _LARGE_RAM_BYTES]


def _image(
    variants: Sequence[str], profile: Profile, toolchain: Toolchain, folder: Path, *, updatable: bool = False
) -> Image:
    operator = Operator(0, "PROBE", (), ())
    layers = tuple(PlacedLayer(Layer(Call(variant, (), (), b""), operator), 128, 0) for variant in variants)
    used = tuple(sorted(set(variants)))
    blob = Blob(bytes(_BLOB_BYTES), layers, 0, 1, used)
    plan = MemoryPlan({}, (), _arena_bytes(profile), 0, 0, 0, proved=True)
    sources = write_sources("probe", blob, plan, Ends((), ()), Target("tflm/1", kernel_set(profile)))
    made = _Made("probe", sources, (*kernel_sources(used), *RUNTIME_SOURCES), blob.data, _arena_bytes(profile))
    image = build_inference(made, profile=profile, toolchain=toolchain, folder=folder, updatable=updatable).image
    _ = image.contents  # the next image takes its place
    return image


if __name__ == "__main__":
    main()
