# SPDX-License-Identifier: Apache-2.0
"""Write results whole or not at all: temporary files beside their places, fsync, rename.

Whoever stops the command meanwhile (Ctrl-C, SIGTERM) is heard when that is done, some milliseconds later. What fails
half-way is taken back: new files go, and old ones are there again. Files have the mode that the umask leaves.
"""

import contextlib
import errno
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from edgefleet.contracts.errors import StorageError

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READ_AND_WRITE = 0o666


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
    work = _Work()
    whole = {path: data for path, data in files.items() if not _is_stream(path)}
    with _held_back():
        try:
            for path, data in whole.items():
                work.stage(path, data)
            for path in whole:
                work.put(path)
        except BaseException as error:
            work.take_back()
            if isinstance(error, OSError):
                raise _cannot_write(work.path, error) from error
            raise
        work.forget()
    for path in files:
        if path not in whole:
            _pour(path, files[path])


class _Work:
    """Files on their way to their places, and what it takes to undo that."""

    def __init__(self) -> None:
        self.path = Path()
        self._staged: dict[Path, Path] = {}
        self._folders: list[Path] = []
        self._put: list[Path] = []
        self._kept: dict[Path, Path] = {}

    def stage(self, path: Path, data: bytes) -> None:
        """Write a file's content beside its place."""
        self.path = path
        self._make_folders(path.parent)
        place = path.resolve()
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = _beside(place)
        self._staged[path] = temporary
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _READ_AND_WRITE), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def put(self, path: Path) -> None:
        """Put a staged file in its place; what stood there is kept until all are there."""
        self.path = path
        place = path.resolve()
        if place.exists():
            kept = _beside(place)
            with contextlib.suppress(OSError):  # a file system without links: it cannot be brought back
                os.link(place, kept)
                self._kept[place] = kept
        self._staged[path].replace(place)
        self._put.append(place)
        _sync_folder(place.parent)

    def take_back(self) -> None:
        """Leave everything as it was."""
        for place in self._put:
            with contextlib.suppress(OSError):
                if place in self._kept:
                    self._kept.pop(place).replace(place)
                else:
                    place.unlink()
        self.forget()
        for temporary in self._staged.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        for folder in self._folders:
            with contextlib.suppress(OSError):  # somebody else wrote there meanwhile
                folder.rmdir()

    def forget(self) -> None:
        """Let go of what stood in the places before."""
        for kept in self._kept.values():
            with contextlib.suppress(OSError):
                kept.unlink(missing_ok=True)

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and those above it, and note the ones that were made, the deepest first."""
        self._folders += [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold signals that end the command back until the block is over; they then do what they would have done."""
    if threading.current_thread() is not threading.main_thread():  # they go to the main thread, which is elsewhere
        yield
        return
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, hear) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None was no handler of Python's, and cannot be put back by Python either.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if heard:
            signal.raise_signal(heard[0])


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # making the folders will tell
        return False
    except OSError as error:
        raise _cannot_write(path, error) from error
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _pour(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _beside(place: Path) -> Path:
    return place.with_name(f".{secrets.token_hex(8)}.partial")


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write '{path}': {error.strerror or error}", hint="free space, or choose another place for the output"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
