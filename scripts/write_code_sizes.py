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
from edgefleet.boards.elf import Section, Symbol
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import Image
from edgefleet.boards.inference import build_inference
from edgefleet.boards.prediction import CodeSizes, VariantSizes
from edgefleet.boards.toolchains import Toolchain, find_toolchain
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import list_profiles

_TABLE = Path(__file__).parents[1] / "edgefleet" / "boards" / "code_sizes.json"
_ARENA_BYTES = 1024
_BLOB_BYTES = 64
#: Layers lie apart as those of a real model, so that calls need addresses of the same length.
_LAYER_STEP = 4136
_MANY = 24
#: What has no size of its own ends somewhere in the padding before the next name.
_PADDING_BYTES = 16


@dataclass(frozen=True)
class _Made:
    """A program that calls kernels and has no model, in the shape that the harness takes."""

    name: str
    sources: Mapping[str, str]
    kernel_sources: tuple[str, ...]
    blob: bytes
    arena_bytes: int
    layers: Sequence[object] = ()


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
        base = _symbols(empty)
        images = {variant: _image((variant,), profile, toolchain, folder) for variant in variants}
        many = max(_per_layer((variant,), images[variant], profile, toolchain, folder) for variant in variants[:3])
    names = sorted({symbol for image in images.values() for symbol in _symbols(image).items()} - set(base.items()))
    numbers = {symbol: number for number, symbol in enumerate(names)}
    return CodeSizes(
        compiler=toolchain.name,
        flags=toolchain.flags(profile.cpu),
        base_bytes=_code_bytes(empty),
        layer_bytes=many,
        data_bytes=empty.ram_bytes - _ARENA_BYTES,
        symbol_bytes=tuple(size for _, size in names),
        variants={variant: _variant(image, empty, base, numbers, many) for variant, image in images.items()},
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


def _variant(
    image: Image, empty: Image, base: Mapping[str, int], numbers: Mapping[tuple[str, int], int], layer_bytes: int
) -> VariantSizes:
    own = [symbol for symbol in _symbols(image).items() if symbol not in base.items()]
    named_bytes = sum(size for _, size in own)
    unnamed = _code_bytes(image) - _code_bytes(empty) - named_bytes - layer_bytes
    return VariantSizes(symbols=tuple(sorted(numbers[symbol] for symbol in own)), unnamed_bytes=max(0, unnamed))


def _per_layer(variant: Sequence[str], once: Image, profile: Profile, toolchain: Toolchain, folder: Path) -> int:
    image = _image([*variant] * _MANY, profile, toolchain, folder)
    return -(-(_code_bytes(image) - _code_bytes(once)) // (_MANY - 1))


def _code_bytes(image: Image) -> int:
    return image.flash_bytes - _BLOB_BYTES


def _symbols(image: Image) -> dict[str, int]:
    """Return names of what is stored and their bytes, the generated code aside.

    What is written in assembler often has no size in the file: then it reaches to the next name.
    """
    return {
        name: size_bytes
        for section in image.contents.sections
        if section.stored
        for name, size_bytes in _named_parts(section, image.contents.symbols)
        if not name.startswith("probe")
    }


def _named_parts(section: Section, symbols: Sequence[Symbol]) -> Iterator[tuple[str, int]]:
    end = section.address + section.size_bytes
    named: dict[int, Symbol] = {}
    for symbol in sorted(symbols, key=lambda each: (-each.size_bytes, each.name)):
        address = symbol.address & ~1 if symbol.function else symbol.address
        if section.address <= address < end and _is_named(symbol.name):
            named.setdefault(address, symbol)
    places = sorted(named)
    for place, following in zip(places, [*places[1:], end], strict=False):
        symbol = named[place]
        yield symbol.name, symbol.size_bytes or -(-(following - place) // _PADDING_BYTES) * _PADDING_BYTES


def _is_named(name: str) -> bool:
    """Tell names from marks that assemblers leave between code and data."""
    return bool(name) and not name.startswith(("$", ".L"))


def _image(variants: Sequence[str], profile: Profile, toolchain: Toolchain, folder: Path) -> Image:
    operator = Operator(0, "PROBE", (), ())
    layers = tuple(
        PlacedLayer(Layer(Call(variant, (), (), b""), operator), 128 + _LAYER_STEP * place, 0)
        for place, variant in enumerate(variants)
    )
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
