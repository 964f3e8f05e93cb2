# SPDX-License-Identifier: Apache-2.0
"""What boards' programs are made from is kept, and the oldest of it goes when it becomes too much."""

import os
from pathlib import Path

import pytest

from edgefleet.boards.cache import LIMIT_BYTES, cache_folder, make_once, prune, prune_when_due

NOW_S = 2_000_000_000.0
HOUR_S = 3600.0


def _keep(folder: Path, name: str, *, size_bytes: int, used_s: float) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size_bytes))
    os.utime(path, (used_s, used_s))
    return path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*")}


def test_the_longest_unused_goes_first_and_only_as_much_as_must(tmp_path: Path) -> None:
    for age, name in enumerate(("a", "b", "c", "d")):
        _keep(tmp_path, f"objects/{name}", size_bytes=100, used_s=NOW_S - 10 * HOUR_S + age)
    prune(tmp_path, now_s=NOW_S, limit_bytes=250)
    assert _names(tmp_path) == {"c", "d"}


def test_what_may_be_in_use_stays_however_much_it_is(tmp_path: Path) -> None:
    _keep(tmp_path, "images/old", size_bytes=100, used_s=NOW_S - 2 * HOUR_S)
    _keep(tmp_path, "images/new", size_bytes=1000, used_s=NOW_S - HOUR_S / 2)
    prune(tmp_path, now_s=NOW_S, limit_bytes=10)
    assert _names(tmp_path) == {"new"}


def test_a_folder_that_is_not_there_and_one_that_is_small_enough_are_left_alone(tmp_path: Path) -> None:
    prune(tmp_path / "none", now_s=NOW_S)
    _keep(tmp_path, "scripts/one", size_bytes=5, used_s=0.0)
    prune(tmp_path, now_s=NOW_S, limit_bytes=5)
    assert _names(tmp_path) == {"one"}


def test_it_is_looked_at_once_an_hour(tmp_path: Path) -> None:
    def grow() -> None:
        with _keep(tmp_path, "images/old", size_bytes=0, used_s=0.0).open("r+b") as sparse:
            sparse.truncate(LIMIT_BYTES + 1)
        os.utime(tmp_path / "images/old", (0.0, 0.0))

    grow()
    prune_when_due(tmp_path, now_s=NOW_S)
    assert _names(tmp_path) == set()
    grow()
    prune_when_due(tmp_path, now_s=NOW_S + HOUR_S / 2)
    assert _names(tmp_path) == {"old"}
    prune_when_due(tmp_path, now_s=NOW_S + HOUR_S + 1)
    assert _names(tmp_path) == set()


def test_a_file_that_is_asked_for_again_counts_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = make_once("objects/x.o", Path.touch)
    os.utime(made, (0.0, 0.0))
    assert make_once("objects/x.o", lambda _: pytest.fail("it is there")) == cache_folder() / "objects/x.o"
    assert made.stat().st_mtime > 0.0
