# SPDX-License-Identifier: Apache-2.0
"""Files that a user names, read with a sentence where they cannot be."""

import stat
from pathlib import Path

from edgefleet.contracts.errors import FileMissingError


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
        return "" if stat.S_ISDIR(facts.st_mode) else "it is a device or a pipe, expected a file"
    return f"it has {facts.st_size} bytes, over the limit of {limit_bytes}" if facts.st_size > limit_bytes else ""
