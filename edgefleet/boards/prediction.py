# SPDX-License-Identifier: Apache-2.0
"""What an image will take, before there is a compiler: measured sizes of each kernel variant, added up.

``code_sizes.json`` holds, for each compiler and core, the functions that each kernel variant brings into an image with
their bytes, and what start-up and harness take. Functions that several variants share count once.
``scripts/write_code_sizes.py`` measures them again.
"""

import functools
from collections.abc import Mapping, Sequence
from importlib.resources import files

import msgspec

from edgefleet.boards.toolchains import Toolchain
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import Cpu

_TABLE = "code_sizes.json"
#: The generated code names the kernel of each layer by a pointer.
_LAYER_BYTES = 4


class VariantSizes(Fact, frozen=True, kw_only=True):
    """The functions and constants of a variant by number, and bytes that have no name (literals of its files)."""

    symbols: tuple[int, ...]
    unnamed_bytes: int


class CodeSizes(Fact, frozen=True, kw_only=True):
    """Sizes for one compiler and core.

    ``symbol_bytes`` are the sizes behind the numbers; ``base_bytes`` is an image without layers. ``data_bytes`` is
    memory beside arena and stack.
    """

    compiler: str
    flags: tuple[str, ...]
    base_bytes: int
    data_bytes: int
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
    variants: Sequence[str], *, blob_bytes: int, arena_bytes: int, cpu: Cpu, toolchain: Toolchain | None = None
) -> Prediction | None:
    """Return what an image with these layers takes, or nothing where nobody has measured that compiler and core.

    ``variants`` names each layer's kernel variant, in order. Without ``toolchain`` the first compiler of the table that
    knows the core is taken.
    """
    sizes = _sizes(cpu, toolchain)
    if sizes is None or any(variant not in sizes.variants for variant in variants):
        return None
    used = [sizes.variants[variant] for variant in sorted(set(variants))]
    symbols = {number for variant in used for number in variant.symbols}
    code_bytes = (
        sizes.base_bytes
        + _LAYER_BYTES * len(variants)
        + sum(sizes.symbol_bytes[number] for number in symbols)
        + sum(variant.unnamed_bytes for variant in used)
    )
    return Prediction(
        compiler=sizes.compiler,
        blob_bytes=blob_bytes,
        code_bytes=code_bytes,
        flash_bytes=blob_bytes + code_bytes,
        arena_bytes=arena_bytes,
        ram_bytes=arena_bytes + sizes.data_bytes,
    )


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
