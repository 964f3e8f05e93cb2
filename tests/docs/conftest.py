# SPDX-License-Identifier: Apache-2.0
"""Documents as data: tables, links and code blocks of the Markdown files, and the fields that they must describe."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
Rows = dict[str, list[str]]


@pytest.fixture(scope="session")
def reference() -> Callable[[str], str]:
    return lambda name: (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def section() -> Callable[[str, str], str]:
    """Return the part of a page under one heading, up to the next heading of any level."""

    def cut(text: str, heading: str) -> str:
        found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert found is not None, f"there is no heading '{heading}'"
        return found.group(1)

    return cut


@pytest.fixture(scope="session")
def table() -> Callable[[str], Rows]:
    """Return the table rows of a text by their first cell, without its backticks."""

    def read(text: str) -> Rows:
        rows: Rows = {}
        for line in re.findall(r"^\| `(.+)\|$", text, re.MULTILINE):
            first, *others = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)]
            assert first.rstrip("`") not in rows, f"'{first}' is described twice"
            rows[first.rstrip("`")] = others
        return rows

    return read


@pytest.fixture(scope="session")
def fields() -> Callable[..., dict[str, str]]:
    """Return every field of a structure and of those inside it: dotted path to default (or 'required').

    Structures named in ``apart`` are described in a place of their own, and not entered.
    """
    return lambda structure, apart=(): dict(_fields(structure, "", frozenset(apart)))


def _fields(structure: Any, prefix: str, apart: frozenset[Any]) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(structure):
        path = f"{prefix}{field.name}"
        inner, many = _structure(field.type)
        if inner is None or inner in apart:
            yield path, _default(field)
        else:
            yield from _fields(inner, f"{path}[]." if many else f"{path}.", apart)


def _structure(kind: Any) -> tuple[Any, bool]:
    """Return the structure inside a field's type, and whether there are many of it."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, False
    many = get_origin(kind) is tuple
    for inner in get_args(kind):
        found, deeper = _structure(inner)
        if found is not None:
            return found, many or deeper
    return None, False


def _default(field: Any) -> str:
    if field.required:
        return "required"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if default in (None, (), "", {}) or isinstance(default, msgspec.Struct):
        return "none"
    if isinstance(default, str):
        return f"`{default}`"
    return f"{default:g}" if isinstance(default, float) else str(default)
