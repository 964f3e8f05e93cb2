# SPDX-License-Identifier: Apache-2.0
"""Results are written whole or not at all, and what stands in their place is respected."""

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from converter.adapters.output_files import write_together, write_whole
from edgefleet.contracts.errors import StorageError


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"old")
    for link, target in (("to-old", "real/a"), ("to-new", "real/b")):
        (tmp_path / link).symlink_to(target)
        write_whole(tmp_path / link, b"new")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target).read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "real", "to-new", "to-old"]


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, b"answers")
    reader.join(timeout=10)
    assert got == [b"answers"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_links_that_lead_to_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StorageError) as caught:
        write_whole(tmp_path / "a", b"x")
    assert caught.value.message == f"cannot write '{tmp_path}/a': Too many levels of symbolic links"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_what_fails_half_way_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_bytes(b"old")
    real = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target.name == "last":
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(StorageError) as caught:
        write_together({tmp_path / name: b"new" for name in ("old", "first", "last")})
    assert caught.value.message == f"cannot write '{tmp_path}/last': Input/output error"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"old"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_heard_when_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    real, heard = os.fsync, []

    def interrupted(descriptor: int) -> None:
        signal.raise_signal(number)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    before = signal.signal(number, lambda *_: heard.append(sorted(path.name for path in tmp_path.iterdir())))
    try:
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    finally:
        signal.signal(number, before)
    assert heard == [["a", "b"]]
