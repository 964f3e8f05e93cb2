# SPDX-License-Identifier: Apache-2.0
"""The map of the largest room names every module and folder of it, in the order in which they may import each other."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _lines_of_the_map() -> list[list[str]]:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = page[page.index("The largest room") : page.index("Four checks keep")]
    first_cells = re.findall(r"^\| (`.+?) \|", part, re.MULTILINE)
    return [re.findall(r"`([\w/.]+?)(?:\.py|/)`", cell) for cell in first_cells]


def test_every_module_of_the_converter_is_on_its_map() -> None:
    room = ROOT / "converter"
    modules = {each.stem for each in room.glob("*.py")} - {"__init__"}
    folders = {each.name for each in room.iterdir() if (each / "__init__.py").is_file()}
    assert sorted(name for line in _lines_of_the_map() for name in line) == sorted(modules | folders)


def test_the_map_is_in_the_order_of_the_walls() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [walls] = [contract["layers"] for contract in contracts if contract["id"] == "inside-the-converter"]
    floors = {part.strip().removeprefix("converter."): n for n, line in enumerate(walls) for part in line.split(":")}
    placed = [floors[name] for line in _lines_of_the_map() for name in line]
    assert placed == sorted(placed)
