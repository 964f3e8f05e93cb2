# SPDX-License-Identifier: Apache-2.0
"""The Makefile keeps the targets that people and CI use, and the repository names no machine."""

import getpass
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("demo", "test", "check", "bench", "campaign", "docs", "package", "clean")
#: Paths that exist on one machine only; ``/home/...`` and ``/root`` may stand in examples of service files.
MACHINE_PATHS = re.compile(r"(?<![\w/.])/(?:work|Users|mnt)/\w+|(?<![\w/.])/home/(?!edgefleet)\w+")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _make(*arguments: str) -> str:
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_exists_and_its_recipe_can_be_planned(target: str) -> None:
    assert _make("--dry-run", target).strip()


@needs_make
def test_help_lists_every_target_with_its_purpose() -> None:
    listed = dict(line.split("\t", 1) for line in _make("help").splitlines())
    assert set(listed) == {*TARGETS, "help"}
    assert all(listed.values())


def test_ci_runs_the_commands_that_people_use() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("make ")]
    assert lines == ["make test", "make check"]


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in listed.splitlines():
        path = ROOT / name
        if not path.is_file() or path.suffix in {".npz", ".tflite"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {match.group()}" for match in MACHINE_PATHS.finditer(text)]
        if getpass.getuser() != "root" and f"/home/{getpass.getuser()}" in text:
            found.append(f"{name}: a home folder")
    assert found == []
