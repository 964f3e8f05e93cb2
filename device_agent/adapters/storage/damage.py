# SPDX-License-Identifier: Apache-2.0
"""SQLite files that a bad disk or a stray write has damaged: how to tell, and how to put them aside."""

import sqlite3
from pathlib import Path

from device_agent.adapters.storage.durable import sync_folder

#: What sqlite3 raises on a bad file; the second one where its message quotes damaged bytes.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
_WORDS = (
    "malformed",
    "unsupported file format",
    "not a database",
    "corrupt",
    "no such table",
    "no such column",
    "Could not decode to UTF-8",
)


def is_damage(error: Exception) -> bool:
    """Tell damage of the file from a disk that is full or read-only."""
    return isinstance(error, sqlite3.IntegrityError | UnicodeDecodeError) or any(word in str(error) for word in _WORDS)


def check_whole(database: sqlite3.Connection) -> None:
    """Read the whole file through.

    Raises:
        sqlite3.DatabaseError: a page of it is damaged.
    """
    said = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise sqlite3.DatabaseError(f"malformed: {str(said)[:200]}")


def set_aside(path: Path) -> Path:
    """Rename a closed database away, so that an empty one can take its place; return the new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    if path.exists():
        path.rename(aside)
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    sync_folder(path.parent)
    return aside
