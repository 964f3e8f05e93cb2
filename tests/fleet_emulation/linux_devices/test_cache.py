# SPDX-License-Identifier: Apache-2.0
"""What is made once is made once, whoever asks at the same time and whoever is killed at it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgefleet.contracts.errors import StorageError
from fleet_emulation.linux_devices.cache import cache_folder, find_made, keep_newest, make_once

MAKE_AND_COUNT = """
import os, sys
from pathlib import Path
from fleet_emulation.linux_devices.cache import make_once

asked, everybody = Path(sys.argv[2]), int(sys.argv[3])

def make(folder):
    with Path(sys.argv[1]).open("a") as log:
        log.write("made\\n")
    while len(list(asked.iterdir())) < everybody:
        os.sched_yield()
    (folder / "content").write_text("whole")

(asked / str(os.getpid())).touch()
print((make_once("kind", "key", make, say=lambda line: None) / "content").read_text())
"""
MAKE_FOR_EVER = """
import signal
from fleet_emulation.linux_devices.cache import make_once

def make(folder):
    (folder / "half").write_text("half")
    print("begun", flush=True)
    signal.pause()

make_once("kind", "key", make)
"""


def _write(folder: Path) -> None:
    (folder / "content").write_text("whole")


def test_processes_that_ask_at_the_same_time_get_one_folder_made_by_one_of_them(
    empty_cache: Path, tmp_path: Path
) -> None:
    everybody, asked = 4, tmp_path / "asked"
    asked.mkdir()
    command = [sys.executable, "-c", MAKE_AND_COUNT, str(tmp_path / "log"), str(asked), str(everybody)]

    def ask(_: int) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300.0).stdout

    with ThreadPoolExecutor(everybody) as pool:
        assert set(pool.map(ask, range(everybody))) == {"whole\n"}
    assert (tmp_path / "log").read_text() == "made\n"


def test_who_waits_for_another_maker_is_told(empty_cache: Path) -> None:
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", MAKE_FOR_EVER], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "begun\n"

        def tell(line: str) -> None:
            said.append(line)
            maker.kill()

        folder = make_once("kind", "key", _write, say=tell)
    assert said == [f"waiting for another process to make {cache_folder() / 'kind' / 'key'}"]
    assert sorted(path.name for path in folder.iterdir()) == ["content"], "nothing is left of the killed maker's half"


def test_a_maker_that_fails_leaves_nothing_and_the_next_one_makes_it(empty_cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once("kind", "key", fail)
    assert find_made("kind", "key") is None
    assert [path.name for path in (cache_folder() / "kind").iterdir()] == ["key.lock"]
    assert (make_once("kind", "key", _write) / "content").read_text() == "whole"


def test_what_is_made_is_not_made_again(empty_cache: Path) -> None:
    first = make_once("kind", "key", _write)
    assert make_once("kind", "key", lambda _: pytest.fail("made again")) == first == find_made("kind", "key")


def test_of_many_the_ones_used_last_are_kept(empty_cache: Path) -> None:
    folders = [make_once("kind", f"key-{number}", _write) for number in range(4)]
    for age, folder in enumerate(folders):
        os.utime(folder, (1e9 - age, 1e9 - age))
    make_once("kind", "key-3", _write)  # the oldest is used once more
    keep_newest("kind", count=2, besides=folders[2])
    assert sorted(path.name for path in (cache_folder() / "kind").iterdir() if path.is_dir()) == [
        "key-0",
        "key-2",
        "key-3",
    ]


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError) as raised:
        make_once("kind", "key", _write)
    assert raised.value.message == f"cannot write into the cache '{cache_folder()}': Not a directory"
    assert raised.value.hint == "make room there, or name another folder with XDG_CACHE_HOME"


def test_the_cache_is_where_the_desktops_specification_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/of/somebody")
    for setting in ("", "relative"):  # the specification: a path that is not absolute is to be ignored
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
        assert cache_folder() == Path("/of/somebody/.cache/edgefleet/linux-devices")
