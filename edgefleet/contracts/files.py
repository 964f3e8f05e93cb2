# SPDX-License-Identifier: Apache-2.0
"""Files that a user names, read with a sentence where they cannot be."""

import os
import stat
from pathlib import Path

from edgefleet.contracts.errors import FileMissingError


def read_file(
    path: Path, what: str, *, hint: str = "check the path and its permissions", limit_bytes: int | None = None
) -> bytes:
    """Return a file's bytes; with ``limit_bytes`` only those of a regular file that is no larger.

    Raises:
        FileMissingError: it cannot be read; ``what`` says what the user knows it as, ``hint`` what to do.
    """
    try:
        why = "" if limit_bytes is None else _endless(path.stat(), limit_bytes)
        if not why:
            return path.read_bytes()
    except OSError as error:
        raise FileMissingError(f"cannot read {what} '{path}': {error.strerror or error}", hint=hint) from error
    raise FileMissingError(f"cannot read {what} '{path}': {why}", hint=hint)


def _endless(facts: os.stat_result, limit_bytes: int) -> str:
    """Say why reading might not end, or not fit the memory; a folder's own error says what it is."""
    if not stat.S_ISREG(facts.st_mode):
        return "" if stat.S_ISDIR(facts.st_mode) else "it is a device or a pipe, expected a file"
    return f"it has {facts.st_size} bytes, over the limit of {limit_bytes}" if facts.st_size > limit_bytes else ""
