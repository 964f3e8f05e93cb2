# SPDX-License-Identifier: Apache-2.0
"""The device's record in SQLite: synchronous=FULL, so that it is durable when a save returns.

It is in the file itself then: a log beside it (WAL) would be cut at its first damaged page, and the device would go on
from a record of long ago as if nothing had been.

The base of the record is one row that agents of schema 1 know; :mod:`device_agent.core.life.record_schema` says why.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from device_agent.adapters.storage.damage import UNREADABLE, check_whole, is_damage, set_aside
from device_agent.core.life.record import DeviceRecord
from device_agent.core.life.record_schema import SCHEMA, DamagedRecordError, Saved, decode, encode
from device_agent.errors import DamagedStateError, storage_failed
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.files import open_regular

_SCHEMA = """
CREATE TABLE IF NOT EXISTS device (id INTEGER PRIMARY KEY CHECK (id = 1), record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS extension (
    schema INTEGER PRIMARY KEY, base_sha256 TEXT NOT NULL, record TEXT NOT NULL
) STRICT;
"""
_SAVE = "INSERT INTO device VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
_EXTEND = "INSERT OR REPLACE INTO extension VALUES (?, ?, ?)"
_EXTENSIONS = "SELECT schema, base_sha256, record FROM extension"


class StateFile:
    """The one row of one device; used from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database: sqlite3.Connection | None = None

    def load(self) -> DeviceRecord | None:
        """Return the record, or None for a device that has none.

        Raises:
            DamagedStateError: the database or the record in it is unreadable.
            StorageError: the file cannot be opened.
        """
        try:
            return _read(self._open(), self._path)
        except UNREADABLE as error:
            if not is_damage(error) and _is_without_log(self._path):
                return read_record(self._path, alone=True)  # a full disk has no room for SQLite's log beside it
            raise _mapped(error, f"read the device's state in '{self._path.name}'") from error

    def save(self, record: DeviceRecord) -> None:
        """Replace the record durably.

        Raises:
            StorageError: it cannot be written; the old one is still there.
        """
        try:
            with self._open() as database:
                saved = encode(record)
                database.execute(_SAVE, (saved.base,))
                database.execute(_EXTEND, (SCHEMA, saved.base_sha256, saved.extension))
        except UNREADABLE as error:
            raise _mapped(error, f"write the device's state to '{self._path.name}'") from error

    def set_aside(self) -> Path:
        """Rename an unreadable database away, so that the next use starts an empty one; return the new name.

        Raises:
            StorageError: the disk says no.
        """
        self.close()
        try:
            return set_aside(self._path)
        except OSError as error:
            raise storage_failed(f"set '{self._path.name}' aside", error) from error

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = _connect(self._path)
        return self._database


def read_record(path: Path, *, alone: bool = False) -> DeviceRecord | None:
    """Return the record of an agent that may be running, without changing anything.

    ``alone``: nobody writes, and there is no log beside the file; then it can be read without room for one.

    Raises:
        StorageError: the file cannot be read.
    """
    if not path.exists():
        return None
    way = "immutable=1" if alone else "mode=ro"
    try:
        open_regular(path).close()  # of a pipe SQLite would wait for ever
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{way}", uri=True, timeout=5.0)) as database:
            return _read(database, path)
    except (OSError, *UNREADABLE) as error:
        raise _mapped(error, f"read the device's state in '{path.name}'") from error


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = TRUNCATE")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
        check_whole(database)
    except UNREADABLE:
        database.close()
        raise
    return database


def _read(database: sqlite3.Connection, path: Path) -> DeviceRecord | None:
    saved = _saved(database)
    try:
        return decode(saved) if saved else None
    except DamagedRecordError as error:
        raise _damaged(path, str(error)) from error


def _saved(database: sqlite3.Connection) -> Saved | None:
    """Return the rows of one save: in one transaction, as the agent may save the next one meanwhile."""
    with database:
        database.execute("BEGIN")
        row = database.execute("SELECT record FROM device").fetchone()
        has_extensions = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'extension'").fetchone()
        extensions = database.execute(_EXTENSIONS).fetchall() if has_extensions else []
    if row is None:
        return None
    own_sha256, own = next(((sha256, record) for schema, sha256, record in extensions if schema == SCHEMA), ("", ""))
    return Saved(row[0], own, own_sha256, tuple(sha256 for schema, sha256, _ in extensions if schema != SCHEMA))


def _is_without_log(path: Path) -> bool:
    """Tell whether all that was saved is in the file itself, and nothing else: no save was cut off."""
    logs = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal")]  # WAL: an older agent's
    return path.exists() and not any(log.exists() and log.stat().st_size for log in logs)


def _mapped(error: Exception, what: str) -> StorageError:
    if is_damage(error):
        return DamagedStateError(f"cannot {what}: {error}", hint="restart the agent: it sets the file aside")
    why = getattr(error, "strerror", None) or error
    return StorageError(f"cannot {what}: {why}", hint="free space or correct the permissions")


def _damaged(path: Path, why: str) -> DamagedStateError:
    return DamagedStateError(
        f"the device's state in '{path.name}' cannot be used: {why}",
        hint="restart the agent: it sets the file aside",
    )
