# SPDX-License-Identifier: Apache-2.0
"""Folders that are made once, named by what they are made from, and kept for later runs and other processes.

A folder appears under its name only when it is complete. Makers of the same folder wait for the first of them.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgefleet.contracts.errors import StorageError

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Return where everything is kept: ``$XDG_CACHE_HOME/edgefleet/linux-devices``, or below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "edgefleet" / "linux-devices"


def say_on_stderr(line: str) -> None:
    """Tell a person who waits what is going on."""
    sys.stderr.write(f"edgefleet: {line}\n")
    sys.stderr.flush()


def find_made(kind: str, key: str) -> Path | None:
    """Return a folder that is complete, None if nobody has made it."""
    folder = cache_folder() / kind / key
    return folder if folder.is_dir() else None


def make_once(kind: str, key: str, make: Callable[[Path], None], *, say: Say = say_on_stderr) -> Path:
    """Return the folder ``kind/key``, filled by ``make`` if it is not there yet.

    Raises:
        StorageError: the cache cannot be written.
    """
    if found := find_made(kind, key):
        with suppress(OSError):  # a cache that others own is as good
            os.utime(found)
        return found
    try:
        return _make(cache_folder() / kind / key, make, say)
    except OSError as error:
        raise StorageError(
            f"cannot write into the cache '{cache_folder()}': {error.strerror or error}",
            hint="make room there, or name another folder with XDG_CACHE_HOME",
        ) from error


def _make(folder: Path, make: Callable[[Path], None], say: Say) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), lambda: say(f"waiting for another process to make {folder}")):
        if folder.is_dir():
            return folder
        unfinished = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)  # what a maker left that was killed
        unfinished.mkdir()
        try:
            make(unfinished)
            unfinished.rename(folder)
        except BaseException:  # an interruption, too, leaves nothing behind
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that the kernel takes back when this process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def keep_newest(kind: str, *, count: int, besides: Path) -> None:
    """Delete all but the ``count`` folders of a kind that were used last, and ``besides``."""
    folders = [path for path in (cache_folder() / kind).iterdir() if path.is_dir() and not path.name.startswith(".")]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in folders[count:]:
        if folder != besides:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
