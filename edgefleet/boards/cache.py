# SPDX-License-Identifier: Apache-2.0
"""Files that are made once, named by what they are made from, for later runs and for other processes at the same time.

A file appears under its name complete or not at all, so makers of the same file do not wait for each other: the last
one wins, with the same bytes. Everything here may be deleted at any time; what nobody has used for the longest time
goes by itself when all of it grows beyond :data:`LIMIT_BYTES`.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from edgefleet.contracts.errors import StorageError

LIMIT_BYTES = 1 << 30
#: What was used so recently may be in use.
_IN_USE_S = 3600.0
#: Looking at every file takes some 10 µs for each, so it is done once in this time, by whoever makes one.
_LOOK_AGAIN_S = 3600.0
_LOOKED_AT = "looked-at"


def cache_folder() -> Path:
    """Return where everything is kept: ``$XDG_CACHE_HOME/edgefleet/boards``, or below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "edgefleet" / "boards"


def key_of(parts: Iterable[str | bytes]) -> str:
    """Return a name for what is made from ``parts``; no two lists of parts share one."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def make_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached file ``name``; where there is none, ``make`` writes it to the path that it is given.

    Raises:
        StorageError: the cache cannot be written. What ``make`` raises passes through.
    """
    path = cache_folder() / name
    with suppress(OSError):
        os.utime(path)  # used now
    if path.exists():
        return path
    prune_when_due(cache_folder(), now_s=time.time())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise _unwritable(error) from error
    try:
        make(Path(unfinished))
        Path(unfinished).replace(path)
    except OSError as error:
        raise _unwritable(error) from error
    finally:
        with suppress(FileNotFoundError):
            Path(unfinished).unlink()
    return path


def prune_when_due(folder: Path, *, now_s: float) -> None:
    """Prune, unless somebody did within the last hour."""
    mark = folder / _LOOKED_AT
    with suppress(OSError):  # what cannot be written is not pruned either; the maker says so
        if mark.exists() and mark.stat().st_mtime > now_s - _LOOK_AGAIN_S:
            return
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.utime(mark, (now_s, now_s))
        prune(folder, now_s=now_s)


def prune(folder: Path, *, now_s: float, limit_bytes: int = LIMIT_BYTES) -> None:
    """Delete what was used last the longest ago until at most ``limit_bytes`` are left, but nothing of the last hour.

    Other processes may use and prune the folder at the same time.
    """
    found = []
    for path in folder.glob("*/*"):
        with suppress(OSError):  # another process was faster
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                found.append((facts.st_mtime, facts.st_size, path))
    excess_bytes = sum(size for _, size, _ in found) - limit_bytes
    for used_s, size_bytes, path in sorted(found):
        if excess_bytes <= 0 or used_s > now_s - _IN_USE_S:
            return
        with suppress(OSError):
            path.unlink()
            excess_bytes -= size_bytes


def _unwritable(error: OSError) -> StorageError:
    return StorageError(
        f"cannot write into the cache '{cache_folder()}': {error.strerror or error}",
        hint="make room there, or name another folder with XDG_CACHE_HOME",
    )
