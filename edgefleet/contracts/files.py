# SPDX-License-Identifier: Apache-2.0
"""Files that a user names, read with a sentence where they cannot be."""

from pathlib import Path

from edgefleet.contracts.errors import FileMissingError


def read_file(path: Path, what: str, *, hint: str = "check the path and its permissions") -> bytes:
    """Return a file's bytes.

    Raises:
        FileMissingError: it cannot be read; ``what`` says what the user knows it as, ``hint`` what to do.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileMissingError(f"cannot read {what} '{path}': {error.strerror or error}", hint=hint) from error
