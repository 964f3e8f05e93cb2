# SPDX-License-Identifier: Apache-2.0
"""What a test run leaves behind: lines in the terminal, the baseline file, and a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgefleet.contracts.errors import EdgeFleetError, StorageError
from fleet_emulation.testing.baseline import merge, read_baselines, write_baselines
from fleet_emulation.testing.measured import Comparison, Record, Row, rows
from fleet_emulation.testing.page import page_text

_COLUMNS = (
    ("instructions", "instructions"),
    ("loads", "loads"),
    ("stores", "stores"),
    ("stack_bytes", "stack B"),
    ("flash_bytes", "flash B"),
    ("ram_bytes", "RAM B"),
)
_SHORT = {
    "same": "as stored",
    "better": "less",
    "within-tolerance": "within tolerance",
    "worse": "MORE",
    "other-key": "not compared",
    "updated": "stored",
}


class Outcome(NamedTuple):
    """What became of the files: sentences to print, and a failure that ends the run."""

    said: tuple[str, ...]
    failure: str = ""


def to_plain(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return records as JSON knows them."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(list(records))
    return plain


def from_plain(plain: Sequence[object]) -> list[Record]:
    """Return records again."""
    return msgspec.convert(plain, list[Record])


def finish(
    records: Sequence[Record], updates: Sequence[Record], baseline: Path, page: Path | None, *, left_out: Sequence[str]
) -> Outcome:
    """Store the new baselines, and write the page where one is wanted."""
    said = [f"not stored, because the test failed: the figures of {test}" for test in left_out]
    try:
        if updates:
            told = [(record.comparison.name, record.measured) for record in updates if record.comparison is not None]
            changed = write_baselines(baseline, merge(read_baselines(baseline), told))
            said.append(f"{'stored' if changed else 'nothing new to store'}: {_count(told)} in {baseline}")
        if page is not None:
            _write_page(page, page_text(rows(list(records))))
            said.append(f"page: {page}")
    except EdgeFleetError as error:
        return Outcome(tuple(said), f"{error.message}; {error.hint}")
    return Outcome(tuple(said))


def _count(told: Sequence[tuple[str, object]]) -> str:
    names = len({name for name, _ in told})
    return "1 baseline" if names == 1 else f"{names} baselines"


def _write_page(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write the page '{path}': {error.strerror}", hint="check the folder and its permissions"
        ) from error


def summary(records: Sequence[Record]) -> list[str]:
    """Return the lines of the terminal's summary: a table, then a sentence for everything that changed."""
    found = rows(list(records))
    cells = [["", *(head for _, head in _COLUMNS), "baseline"]]
    cells += [[_title(row), *(_number(row, figure) for figure, _ in _COLUMNS), _verdict(row)] for row in found]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    table = [_aligned(line, widths) for line in cells]
    sentences = [f"{row.label} {told.sentence}" for row in found for told in row.comparisons if told.sentence]
    better = any(told.verdict == "better" for row in found for told in row.comparisons)
    hint = ["keep what was won: pytest --edgefleet-update-baseline"] if better else []
    return [*table, *dict.fromkeys(sentences), *hint]


def _title(row: Row) -> str:
    build = " updatable" if row.origin.build == "updatable" else ""
    return f"{row.label}{build}, {row.key.compiler} {row.key.version}"


def _number(row: Row, figure: str) -> str:
    return f"{row.figures[figure]:,}" if figure in row.figures else "–"


def _verdict(row: Row) -> str:
    return ", ".join(dict.fromkeys(_short(told) for told in row.comparisons)) or "–"


def _short(told: Comparison) -> str:
    """Say the verdict, with the figure that rose most, or fell most."""
    if not told.changes:
        return _SHORT[told.verdict]
    most = (min if told.verdict == "better" else max)(told.changes, key=lambda change: change.percent)
    return f"{_SHORT[told.verdict]} ({most.figure} {most.percent:+.2f} %)"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = line
    numbers = [cell.rjust(width) for cell, width in zip(others[:-1], widths[1:-1], strict=True)]
    return "  ".join([first.ljust(widths[0]), *numbers, others[-1]]).rstrip()
