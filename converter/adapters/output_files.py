# SPDX-License-Identifier: Apache-2.0
"""Write results whole or not at all: a temporary file beside the place, fsync, rename."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgefleet.contracts.errors import StorageError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; folders are made.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files as :func:`write_whole` does; none is put in its place before all are on the disk.

    A link is followed, and a device or pipe is written into: neither is replaced.

    Raises:
        StorageError: the disk is full or a place cannot be written; no file and no folder is left behind.
    """
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    path = next(iter(files))
    try:
        for path, data in files.items():
            if _is_stream(path):
                path.write_bytes(data)
                continue
            made += _make_folders(path.parent)
            staged[path] = _stage(path.resolve(), data)
        for path, temporary in staged.items():
            temporary.replace(path.resolve())
            _sync_folder(temporary.parent)
    except OSError as error:
        _take_back(list(staged.values()), made)
        raise StorageError(
            f"cannot write '{path}': {error.strerror or error}",
            hint="free space, or choose another place for the output",
        ) from error


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # making the folders will tell
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it, and return the ones that were made, the deepest first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _stage(path: Path, data: bytes) -> Path:
    """Write a temporary file beside a place, and return it when it is on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
    except BaseException:  # interrupted or failed, a part is of no use
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _take_back(temporaries: Sequence[Path], folders: Sequence[Path]) -> None:
    for temporary in temporaries:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    for folder in folders:
        with contextlib.suppress(OSError):  # somebody else wrote there meanwhile
            folder.rmdir()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
