# SPDX-License-Identifier: Apache-2.0
"""The reference page names every option and everything that the fixture, its boards and its results offer."""

import re
from pathlib import Path

import pytest

from fleet_emulation.pytest_plugin import pytest_addoption
from fleet_emulation.testing.boards import Board, ModelBoard
from fleet_emulation.testing.fixture import EdgeFleet
from fleet_emulation.testing.network import Link
from fleet_emulation.testing.power import Power
from fleet_emulation.testing.result import Result

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "pytest-plugin.md").read_text(encoding="utf-8")
#: What is there for EdgeFleet itself, or ends a thing that ends by itself.
UNTOLD = {"close", "follow", "label", "measured", "profile", "exit_code", "text", "open", "parted", "traffic", "faults"}


@pytest.mark.parametrize("kind", [EdgeFleet, Board, ModelBoard, Result, Power, Link])
def test_all_public_members_are_described(kind: type) -> None:
    public = {name for name in vars(kind) if not name.startswith("_")} - UNTOLD
    untold = {name for name in public if not re.search(rf"\b{name}\b", PAGE)}
    assert untold == set()


def test_all_options_are_described() -> None:
    parser = pytest.Parser(_ispytest=True)
    pytest_addoption(parser)
    options = {name for group in parser._groups for option in group.options for name in option.names()}
    assert options == set(re.findall(r"^\| `(--edgefleet-[a-z-]+)", PAGE, re.MULTILINE))
