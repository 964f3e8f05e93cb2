# SPDX-License-Identifier: Apache-2.0
"""What an image's ELF file says of itself: sections and symbols (32 bits, little-endian).

Read here because not every compiler brings a program for it. Layout: System V Application Binary Interface, "Object
Files".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefleet.contracts.errors import BuildError
from edgefleet.contracts.files import read_file

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SECTION = struct.Struct("<10I")
_SYMBOL = struct.Struct("<IIIBBH")
_SYMBOL_TABLE, _NO_BITS = 2, 8
_WRITABLE, _ALLOCATED, _EXECUTABLE = 1, 2, 4
_FUNCTION, _SOURCE = 2, 4
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1


@dataclass(frozen=True)
class Section:
    """One section that takes memory on the board; ``stored`` where the file holds its bytes (and flash must)."""

    name: str
    address: int
    size_bytes: int
    stored: bool
    writable: bool
    executable: bool


@dataclass(frozen=True)
class Symbol:
    """One name: its address, the bytes it stands for (0: not known), and whether it is a function.

    ``placed`` is false for a number that has only been given a name: it stands for nothing in memory. ``source`` is the
    source file of a name that is only known there, else empty.
    """

    name: str
    address: int
    size_bytes: int
    function: bool
    placed: bool
    source: str


@dataclass(frozen=True)
class Elf:
    """The sections with memory, and all named symbols."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]


def read_elf(path: Path) -> Elf:
    """Read an executable.

    Raises:
        FileMissingError: it cannot be read.
        BuildError: it is no 32-bit little-endian ELF file, or is cut off.
    """
    data = read_file(path, "the image")
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError) as error:
        raise BuildError(f"'{path.name}' is no whole 32-bit ELF file", hint="build the image again") from error


def _parse(data: bytes) -> Elf:
    header = _HEADER.unpack_from(data)
    if header[0][:6] != b"\x7fELF\x01\x01":
        raise ValueError(header[0])
    table_at, entry_bytes, count, names_index = header[6], header[11], header[12], header[13]
    raw = [_SECTION.unpack_from(data, table_at + entry_bytes * number) for number in range(count)]
    names_at = raw[names_index][4]
    sections = tuple(
        Section(
            name=_text(data, names_at + entry[0]),
            address=entry[3],
            size_bytes=entry[5],
            stored=entry[1] != _NO_BITS,
            writable=bool(entry[2] & _WRITABLE),
            executable=bool(entry[2] & _EXECUTABLE),
        )
        for entry in raw
        if entry[2] & _ALLOCATED
    )
    symbols = (symbol for entry in raw if entry[1] == _SYMBOL_TABLE for symbol in _symbols(data, entry, raw))
    return Elf(sections, tuple(symbols))


def _symbols(data: bytes, table: tuple[int, ...], sections: list[tuple[int, ...]]) -> Iterator[Symbol]:
    texts_at = sections[table[6]][4]
    source = ""
    for at in range(table[4], table[4] + table[5], _SYMBOL.size):
        name_at, address, size_bytes, info, _, section = _SYMBOL.unpack_from(data, at)
        name = _text(data, texts_at + name_at)
        if info & 15 == _SOURCE:
            source = name  # of all local names up to the next
        elif name:
            placed = section not in (_UNDEFINED, _ABSOLUTE)
            yield Symbol(name, address, size_bytes, info & 15 == _FUNCTION, placed, "" if info >> 4 else source)


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode(errors="replace")
