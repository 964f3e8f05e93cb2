# SPDX-License-Identifier: Apache-2.0
"""An .npz is read whole or refused; a few packed bytes never become a full memory."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgefleet.contracts.errors import SampleError
from edgefleet.runtimes.examples import read_npz


def bomb(path: Path, size_bytes: int) -> Path:
    """Write zeros that pack to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        content = io.BytesIO()
        np.save(content, np.zeros(size_bytes, np.uint8))
        archive.writestr("x.npy", content.getvalue())
    return path


def test_what_unpacks_to_more_than_the_limit(tmp_path: Path) -> None:
    path = bomb(tmp_path / "c.npz", 1 << 22)
    assert path.stat().st_size < 1 << 13
    with pytest.raises(SampleError) as refused:
        read_npz(path, source="c.npz", limit_bytes=1 << 20)
    assert refused.value.message == "c.npz unpacks to 4194432 bytes, over the limit of 1048576"
    assert refused.value.hint == "give fewer samples, or a folder of files, which are read one at a time"


def test_one_that_understates_its_size(tmp_path: Path) -> None:
    """No more is read than is said, and the checksum is then another."""
    path = bomb(tmp_path / "c.npz", 1 << 22)
    data = path.read_bytes().replace((4194432).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    with pytest.raises(SampleError) as refused:
        read_npz(io.BytesIO(data), source="c.npz", limit_bytes=1 << 20)
    assert refused.value.message.startswith("c.npz is not a readable .npz: ")


def test_a_shape_that_says_more_than_is_there(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.npy", content.getvalue())
    with pytest.raises(SampleError) as refused:
        read_npz(tmp_path / "c.npz", source="c.npz", limit_bytes=1 << 20)
    assert refused.value.message.startswith("c.npz is not a readable .npz: ")


def test_what_fits_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.arange(6.0), y=np.arange(3))
    found = read_npz(tmp_path / "c.npz", source="c.npz", limit_bytes=1 << 20)
    assert {name: values.tolist() for name, values in found.items()} == {"x": [0, 1, 2, 3, 4, 5], "y": [0, 1, 2]}
