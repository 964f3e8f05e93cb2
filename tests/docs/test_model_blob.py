# SPDX-License-Identifier: Apache-2.0
"""The page of the model blob, the header for firmware and the writer have the same fields in the same order."""

import re
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from converter.c.core import blob_format

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "firmware" / "kernels" / "include" / "edgefleet" / "blob.h"
_CODES = {"uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "int32_t": "i", "float": "f"}
_TABLES = {
    "Header": ("ef_blob_header", blob_format._HEADER),
    "Kernel variants": ("ef_variant_record", blob_format.VARIANT),
    "Layers": ("ef_layer_record", blob_format.LAYER),
    "Inputs and outputs": ("ef_end_record", blob_format.END),
}


def _c_fields(structure: str) -> list[tuple[str, str]]:
    """Return names and ``struct`` codes of a C structure's fields."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    bodies = {name: body for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL)}
    found = []
    for kind, names in re.findall(r"(\w+) ([^;]+);", bodies[structure]):
        for name, count in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            code = f"{count}s" if kind == "uint8_t" and count else f"{count}{_CODES[kind]}"
            found.append((name, code))
    return found


@pytest.mark.parametrize("heading", _TABLES)
def test_page_header_and_writer_agree(
    heading: str,
    reference: Callable[[str], str],
    section: Callable[[str, str], str],
    table: Callable[[str], dict[str, list[str]]],
) -> None:
    structure, packed = _TABLES[heading]
    part = section(reference("model-blob"), heading)
    told = [(name, cells[0].strip("`")) for name, cells in table(part).items()]
    assert told == _c_fields(structure)
    assert "<" + "".join(code for _, code in told) == packed.format
    assert f"{packed.size} bytes" in part
    assert struct.calcsize("<" + "".join(code for _, code in told)) == packed.size


def test_the_writers_header_has_the_same_names() -> None:
    assert [field.name for field in fields(blob_format.Header)] == [name for name, _ in _c_fields("ef_blob_header")]
