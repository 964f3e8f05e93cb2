# SPDX-License-Identifier: Apache-2.0
"""Whatever lies where a file should be, reading it ends."""

import os
from pathlib import Path

import pytest

from edgefleet.contracts.canonical import sha256_file, sha256_hex
from edgefleet.contracts.files import open_regular, read_regular

OPEN = Path("/proc/self/fd")


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"twelve bytes")
    assert read_regular(path, limit_bytes=12) == b"twelve bytes"
    with pytest.raises(OSError, match="it has more than 11 bytes"):
        read_regular(path, limit_bytes=11)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_regular(link) == b"twelve bytes"
    assert sha256_file(link) == sha256_hex(b"twelve bytes")


@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder", "a loop", "nothing"])
def test_what_is_no_file_is_refused_and_leaves_nothing_open(tmp_path, what):
    path = tmp_path / "file"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what in ("a device", "a loop"):
        path.symlink_to("/dev/zero" if what == "a device" else path)
    before = list(OPEN.iterdir())
    for read in (open_regular, read_regular, sha256_file):
        with pytest.raises(OSError, match=r"device or a pipe|Is a directory|Too many levels|No such file"):
            read(path)
    assert len(list(OPEN.iterdir())) == len(before)
