# SPDX-License-Identifier: Apache-2.0
"""The demo as a stranger runs it, with fewer simulated devices."""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_S = 1200.0


@pytest.fixture(name="short_folder")
def _short_folder() -> Iterator[Path]:
    """A folder near the root: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        yield Path(name)


@pytest.mark.slow
def test_the_demo_tells_five_stories_as_told_on_loopback_only_and_leaves_nothing_behind(short_folder: Path) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    command = [sys.executable, "-m", "edgefleet.cli", "demo", "--once", "--json", "--simulated", "20"]
    done = subprocess.run(
        [*command, "--seed", str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(short_folder)},
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    report = json.loads(done.stdout)
    assert (report["seed"], report["devices"], report["all_as_told"]) == (seed, 24, True)
    assert {story["key"]: story["as_told"] for story in report["stories"]} == dict.fromkeys("abcd", True) | {
        "good": True
    }
    assert (report["requests"]["failed"], report["requests"]["failures"]) == (0, [])
    assert report["requests"]["served"] > 1000
    assert len(report["listeners"]) == 3
    assert {listener["address"] for listener in report["listeners"]} == {"127.0.0.1"}
    assert list(short_folder.iterdir()) == []


def test_a_demo_in_a_folder_too_deep_for_sockets_says_so_at_once(short_folder: Path) -> None:
    deep = short_folder / ("x" * 100)
    command = [sys.executable, "-m", "edgefleet.cli", "demo", "--once", "--simulated", "20", "--keep", str(deep)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    told = (
        f"error: the path '{deep}' is longer than 75 bytes, which leaves no room for the agents' sockets\n"
        "hint: choose a folder nearer to the root (TMPDIR or --keep)\n"
    )
    assert done.returncode == 2
    assert done.stderr.endswith(told)
    assert "Traceback" not in done.stderr


def test_the_demo_writes_into_no_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    command = [sys.executable, "-m", "edgefleet.cli", "demo", "--once", "--keep", str(tmp_path / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: '{tmp_path}/mine' exists already\nhint: name a new folder with --keep\n",
    )
    assert list((tmp_path / "mine").iterdir()) == []
