# SPDX-License-Identifier: Apache-2.0
"""A ``.csv`` of numbers: one sample a row, one feature a column, and a column of labels where one is named so."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError

Array = npt.NDArray[Any]
_LABEL_COLUMNS = ("label", "y")
_HINT = "write a header, then one row of numbers a sample; a column 'label' may hold class names or targets"


class Table(NamedTuple):
    """Features, float64 [samples, columns], and labels (int64 classes or float64 targets) where there are any."""

    features: Array
    labels: Array | None


def read_table(path: Path, class_names: Sequence[str]) -> Table:
    """Read a table; its first line names the columns, unless it is all numbers.

    Raises:
        SampleError: it is no such table; the message names the row.
    """
    header, rows = _read_rows(path)
    place = next((n for n, name in enumerate(header) if name.strip().lower() in _LABEL_COLUMNS), None)
    features = [
        [_number(cell, path.name, line, header[n]) for n, cell in enumerate(row) if n != place] for line, row in rows
    ]
    labels = None if place is None else _labels([(line, row[place].strip()) for line, row in rows], class_names, path)
    return Table(np.array(features, dtype=np.float64), labels)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row with the number of its line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SampleError(f"{path.name} is not a readable .csv", hint=_HINT) from error
    header = [f"column {n + 1}" for n in range(len(rows[0][1]))] if rows else []
    if rows and not all(map(_is_number, rows[0][1])):
        header = rows.pop(0)[1]
    if not rows:
        raise SampleError(f"{path.name} holds no samples", hint=_HINT)
    for line, row in rows:
        if len(row) != len(header):
            raise SampleError(f"{path.name} has {len(row)} cells in line {line}, expected {len(header)}", hint=_HINT)
    return header, rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str, source: str, line: int, column: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        raise SampleError(
            f"{source} has '{text}' in line {line}, column '{column}', expected a number",
            hint="correct the cell, or leave the row out",
        )
    return value


def _labels(cells: Sequence[tuple[int, str]], class_names: Sequence[str], path: Path) -> Array:
    if all(text in class_names for _, text in cells):
        return np.array([list(class_names).index(text) for _, text in cells], dtype=np.int64)
    values = np.array([_number(text, path.name, line, "label") for line, text in cells])
    whole = (values == np.rint(values)).all() and np.abs(values).max() < 2.0**53
    return values.astype(np.int64) if whole else values
