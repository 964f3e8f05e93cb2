# SPDX-License-Identifier: Apache-2.0
"""Results are written whole or not at all, and what stands in their place is respected."""

import os
import stat
import threading
from pathlib import Path

import pytest

from converter.adapters.output_files import write_whole
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
