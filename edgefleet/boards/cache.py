# SPDX-License-Identifier: Apache-2.0
"""Files that are made once, named by what they are made from, for later runs and for other processes at the same time.

A file appears under its name complete or not at all, so makers of the same file do not wait for each other: the last
one wins, with the same bytes. Everything here may be deleted at any time.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from edgefleet.contracts.errors import StorageError


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
    if path.exists():
        return path
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


def _unwritable(error: OSError) -> StorageError:
    return StorageError(
        f"cannot write into the cache '{cache_folder()}': {error.strerror or error}",
        hint="make room there, or name another folder with XDG_CACHE_HOME",
    )
