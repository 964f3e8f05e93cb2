# SPDX-License-Identifier: Apache-2.0
"""Files that a user names, read with a sentence where they cannot be; and files of our own, read only as files.

Whatever was put where a file should be, a pipe, a device or a file without end, reading it ends and keeps to its limit.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from edgefleet.contracts.errors import FileMissingError

_NO_FILE = "it is a device or a pipe, expected a file"
_STATE_LIMIT_BYTES = 16 << 20


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read from.

    Raises:
        OSError: it cannot be opened, or is something else than a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a pipe keeps who opens it
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, _NO_FILE, str(path))


def read_regular(path: Path, *, limit_bytes: int = _STATE_LIMIT_BYTES) -> bytes:
    """Return the bytes of a file that is no larger than ``limit_bytes``.

    Raises:
        OSError: it cannot be read, is something else than a file, or larger.
    """
    with open_regular(path) as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it has more than {limit_bytes} bytes", str(path))
    return data


def read_file(
    path: Path, what: str, *, hint: str = "check the path and its permissions", limit_bytes: int | None = None
) -> bytes:
    """Return a file's bytes; with ``limit_bytes`` only those of a regular file that is no larger, or of a pipe.

    A pipe is read that this process was given (``/dev/stdin``, ``/dev/fd/…``), and no other, which might never end.

    Raises:
        FileMissingError: it cannot be read; ``what`` says what the user knows it as, ``hint`` what to do.
    """
    try:
        if limit_bytes is None:
            return path.read_bytes()
        why = _endless(path, limit_bytes)
        if not why:
            with path.open("rb") as stream:
                data = stream.read(limit_bytes + 1)
            if len(data) <= limit_bytes:
                return data
            why = f"it has more than {limit_bytes} bytes"
    except OSError as error:
        raise FileMissingError(f"cannot read {what} '{path}': {error.strerror or error}", hint=hint) from error
    raise FileMissingError(f"cannot read {what} '{path}': {why}", hint=hint)


def _endless(path: Path, limit_bytes: int) -> str:
    """Say why reading might not end, or not fit the memory; a folder's own error says what it is."""
    facts = path.stat()
    if stat.S_ISFIFO(facts.st_mode) and path.is_relative_to("/dev"):
        return ""
    if not stat.S_ISREG(facts.st_mode):
        return "" if stat.S_ISDIR(facts.st_mode) else _NO_FILE
    return f"it has {facts.st_size} bytes, over the limit of {limit_bytes}" if facts.st_size > limit_bytes else ""
