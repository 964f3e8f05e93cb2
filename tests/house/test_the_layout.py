# SPDX-License-Identifier: Apache-2.0
"""The repository keeps its own rules."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("edgefleet", "firmware_profiles", "converter", "fleet_server", "device_agent", "fleet_emulation")


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


def test_the_top_package_is_empty() -> None:
    assert (ROOT / "edgefleet" / "__init__.py").read_bytes() == b""


def test_every_module_names_its_licence_and_says_what_it_is_for() -> None:
    wanting = []
    for path in _tracked("*.py"):
        text = path.read_text(encoding="utf-8")
        if text and not re.match(r'(#!.*\n)?# SPDX-License-Identifier: Apache-2\.0\n+r?"""', text):
            wanting.append(str(path.relative_to(ROOT)))
    assert wanting == []


def test_no_module_hides_behind_a_name_that_says_nothing() -> None:
    empty_names = {"utils", "helpers", "common", "manager", "misc", "util", "helper"}
    assert [p for p in _tracked("*.py") if p.stem in empty_names] == []


def test_the_example_stays_small() -> None:
    size_bytes = sum(path.stat().st_size for path in _tracked("examples/digits"))
    assert 0 < size_bytes < 300_000


def test_the_readme_names_the_two_commands_first() -> None:
    commands = re.findall(r"^\s*(make \w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
