# SPDX-License-Identifier: Apache-2.0
"""The page of operators lists every operator that generated C has, and no other."""

import re
from pathlib import Path

from converter.c.core.lowering import LOWERINGS

_PAGE = Path(__file__).resolve().parents[2] / "docs/reference/operators-in-c.md"


def test_the_page_lists_what_there_is() -> None:
    table = _PAGE.read_text(encoding="utf-8").split("## ")[0]
    rows = re.findall(r"^\| ([A-Z0-9_, ]+) \|", table, re.MULTILINE)
    assert sorted(name for row in rows for name in row.split(", ")) == sorted(LOWERINGS)
