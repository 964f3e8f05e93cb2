# SPDX-License-Identifier: Apache-2.0
"""What an image will take, before there is a compiler: measured sizes of each kernel variant, added up.

``code_sizes.json`` holds, for each compiler and core, the functions that each kernel variant brings into an image with
their bytes, and what start-up, harness and runtime take. Functions that several variants share count once. The tables
of a generated program have a known size. Padding has room of its own, so that a prediction is more than the image and
not less. ``scripts/write_code_sizes.py`` measures the sizes again, ``benchmarks/code_prediction.py`` how near they are.
"""

import functools
from collections.abc import Mapping, Sequence
from importlib.resources import files

import msgspec

from edgefleet.boards.toolchains import Toolchain
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import Cpu

_TABLE = "code_sizes.json"
#: The generated code names the kernel of each layer by a pointer; an updatable one each variant's id and kernel too.
_LAYER_BYTES = 4
_VARIANT_BYTES = 8
#: The blob that follows these tables begins at a multiple of this.
_BLOB_ALIGNMENT = 16
#: What else lies there: a static program's ``ef_program`` of eight words, a pointer to an updatable one's first blob.
_PROGRAM_BYTES = 32
_POINTER_BYTES = 4


class VariantSizes(Fact, frozen=True, kw_only=True):
    """The functions and constants of a variant by number, and bytes that have no name (literals of its files)."""

    symbols: tuple[int, ...]
    unnamed_bytes: int


class EmptyImage(Fact, frozen=True, kw_only=True):
    """What an image takes before its first layer, all that :func:`table_bytes` counts left out.

    ``data_bytes`` is memory beside arena and stack.
    """

    code_bytes: int
    data_bytes: int


class CodeSizes(Fact, frozen=True, kw_only=True):
    """Sizes for one compiler and core.

    ``symbol_bytes`` are the sizes behind the numbers; ``static`` and ``updatable`` are images without layers.
    """

    compiler: str
    flags: tuple[str, ...]
    static: EmptyImage
    updatable: EmptyImage
    symbol_bytes: tuple[int, ...]
    variants: Mapping[str, VariantSizes]


class Prediction(Fact, frozen=True, kw_only=True):
    """What an image will take, in bytes: ``flash_bytes`` is blob and code, ``ram_bytes`` everything but the stack."""

    compiler: str
    blob_bytes: int
    code_bytes: int
    flash_bytes: int
    arena_bytes: int
    ram_bytes: int


def predict(
    variants: Sequence[str],
    *,
    blob_bytes: int,
    arena_bytes: int,
    cpu: Cpu,
    toolchain: Toolchain | None = None,
    updatable: bool = False,
) -> Prediction | None:
    """Return what an image with these layers takes, or nothing where nobody has measured that compiler and core.

    ``variants`` names each layer's kernel variant, in order. Without ``toolchain`` the first compiler of the table that
    knows the core is taken.
    """
    sizes = _sizes(cpu, toolchain)
    if sizes is None or any(variant not in sizes.variants for variant in variants):
        return None
    empty = sizes.updatable if updatable else sizes.static
    used = [sizes.variants[variant] for variant in sorted(set(variants))]
    symbols = {number for variant in used for number in variant.symbols}
    code_bytes = (
        empty.code_bytes
        + table_bytes(len(variants), len(used), updatable=updatable)
        + sum(sizes.symbol_bytes[number] for number in symbols)
        + sum(variant.unnamed_bytes for variant in used)
    )
    return Prediction(
        compiler=sizes.compiler,
        blob_bytes=blob_bytes,
        code_bytes=code_bytes,
        flash_bytes=blob_bytes + code_bytes,
        arena_bytes=arena_bytes,
        ram_bytes=arena_bytes + empty.data_bytes,
    )


def table_bytes(layers: int, variants: int, *, updatable: bool) -> int:
    """Return what the generated tables take before the blob, up to where it is aligned.

    A program without layers has one empty row.
    """
    besides = _VARIANT_BYTES * variants + _POINTER_BYTES if updatable else _PROGRAM_BYTES
    tables = _LAYER_BYTES * max(1, layers) + besides
    return -(-tables // _BLOB_ALIGNMENT) * _BLOB_ALIGNMENT


def _sizes(cpu: Cpu, toolchain: Toolchain | None) -> CodeSizes | None:
    for sizes in code_sizes():
        if toolchain is None:
            if f"-mcpu={cpu.core}" in sizes.flags or f"-march={cpu.architecture}" in sizes.flags:
                return sizes
        elif sizes.compiler == toolchain.name and sizes.flags == toolchain.flags(cpu):
            return sizes
    return None


@functools.cache
def code_sizes() -> tuple[CodeSizes, ...]:
    """Return the whole table."""
    data = (files("edgefleet.boards") / _TABLE).read_bytes()
    return msgspec.json.decode(data, type=tuple[CodeSizes, ...])
