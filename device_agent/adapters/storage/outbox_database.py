# SPDX-License-Identifier: Apache-2.0
"""The outbox's database: its tables, how it is opened, and how much disk it takes.

``outbox`` and ``message`` are as agents of before made them, and what they need to go on. What came later lies in
tables of its own, which an older agent passes over:

- ``upkeep``: up to where messages are acknowledged (those stay for a while), how many were evicted, and the hours;
- ``moment``: one row an hour: the last sequences then, from which messages get their age;
- ``extension``: messages as they are now, where ``message`` holds the form that older agents can read;
- ``seal`` and ``highest``: checksums of messages and of the last number, because SQLite's pages have none. What an
  older agent wrote has no seal, and is taken as it is.

Pages that become free are used again, and given back to the file system little by little.
"""

import re
import secrets
import sqlite3
import zlib
from contextlib import suppress
from pathlib import Path

from device_agent.adapters.storage.damage import UNREADABLE, check_whole, is_damage, set_aside
from edgefleet.contracts.errors import MessageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (epoch TEXT NOT NULL, last_sequence INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS message (
    sequence INTEGER PRIMARY KEY, size_bytes INTEGER NOT NULL, gap_first INTEGER, data BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS upkeep (
    acknowledged INTEGER NOT NULL, evicted INTEGER NOT NULL, ran_s REAL NOT NULL, wall REAL
) STRICT;
CREATE TABLE IF NOT EXISTS moment (
    ran_s REAL NOT NULL, last_sequence INTEGER NOT NULL, acknowledged INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS extension (sequence INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS seal (sequence INTEGER PRIMARY KEY, crc INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS highest (
    id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL, crc INTEGER NOT NULL
) STRICT;
"""
_INCREMENTAL = 2
_PAGE_BYTES = 4096
#: Free pages that are worth giving back, and how many of them are at a time.
_FREE_PAGES = 64
_GIVEN_BACK_PAGES = 256


def open_outbox(path: Path) -> tuple[sqlite3.Connection, str]:
    """Open the outbox, or make it, and return it with its epoch; a damaged one is set aside for a new one.

    Raises:
        OSError, sqlite3.Error: the disk says no.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except UNREADABLE as error:
        if not is_damage(error):
            raise
    set_aside(path)
    return _connect(path)


def used_bytes(database: sqlite3.Connection) -> int:
    """Return what the pages in use take."""
    return (scalar(database, "PRAGMA page_count") - scalar(database, "PRAGMA freelist_count")) * _PAGE_BYTES


def give_back(database: sqlite3.Connection) -> None:
    """Shorten the file by some of its free pages, where it has many."""
    free = scalar(database, "PRAGMA freelist_count")
    for _ in range(min(free, _GIVEN_BACK_PAGES) if free > _FREE_PAGES else 0):
        database.execute("PRAGMA incremental_vacuum(1)")  # sqlite3 takes one step only, which is one page


def scalar(database: sqlite3.Connection, statement: str, parameters: tuple[object, ...] = ()) -> int:
    """Return the one number that a query gives, 0 for NULL."""
    return int(database.execute(statement, parameters).fetchone()[0] or 0)


def seal(database: sqlite3.Connection, epoch: str, sequence: int, data: bytes) -> None:
    """Seal a new message, and the number that it has: it is the last."""
    database.execute("INSERT OR REPLACE INTO seal VALUES (?, ?)", (sequence, _crc_of_message(sequence, data)))
    database.execute("INSERT OR REPLACE INTO highest VALUES (1, ?, ?)", (sequence, _crc_of_number(epoch, sequence)))


def check_seal(sequence: int, data: bytes, crc: int | None) -> None:
    """Refuse a message that is not as it was written; one without a seal is taken as it is.

    Raises:
        MessageError: it is damaged.
    """
    if crc is not None and crc != _crc_of_message(sequence, data):
        raise MessageError(f"the message {sequence} was damaged on the disk", hint="check the device's disk")


def _crc_of_message(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, sequence & 0xFFFFFFFF)


def _crc_of_number(epoch: str, sequence: int) -> int:
    return zlib.crc32(f"{epoch} {sequence}".encode())


def _connect(path: Path) -> tuple[sqlite3.Connection, str]:
    database = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")  # before anything is in the file
        database.execute("PRAGMA journal_mode = TRUNCATE")
        database.execute("PRAGMA synchronous = FULL")
        epoch = _prepare(database)
        check_whole(database)
        _check_numbers(database, epoch)
        with database:  # an older agent deletes messages only
            for table in ("extension", "seal"):
                database.execute(f"DELETE FROM {table} WHERE sequence NOT IN (SELECT sequence FROM message)")  # noqa: S608
        _convert(database)
    except UNREADABLE:
        database.close()
        raise
    return database, epoch


def _prepare(database: sqlite3.Connection) -> str:
    """Make what is missing, and return the epoch."""
    database.executescript(_SCHEMA)
    with database:
        if database.execute("SELECT 1 FROM upkeep").fetchone() is None:
            database.execute("INSERT INTO upkeep VALUES (0, 0, 0.0, NULL)")
        row = database.execute("SELECT epoch FROM outbox").fetchone()
        if row is None:
            row = (secrets.token_hex(8),)
            database.execute("INSERT INTO outbox VALUES (?, 0)", row)
    return str(row[0])


def _check_numbers(database: sqlite3.Connection, epoch: str) -> None:
    """Refuse what SQLite finds whole, and no server would take."""
    last, highest, acknowledged = database.execute(
        "SELECT last_sequence, (SELECT max(sequence) FROM message), (SELECT acknowledged FROM upkeep) FROM outbox"
    ).fetchone()
    if not re.fullmatch("[0-9a-f]{16}", epoch) or not 0 <= max(highest or 0, acknowledged) <= last:
        raise sqlite3.DatabaseError("malformed epoch or sequence")
    sealed = database.execute("SELECT sequence, crc FROM highest").fetchone()
    if sealed is not None and not (sealed[0] <= last and sealed[1] == _crc_of_number(epoch, sealed[0])):
        raise sqlite3.DatabaseError("malformed last number")


def _convert(database: sqlite3.Connection) -> None:
    """Let a file of before give pages back, too; on a disk without room for that it stays as it is."""
    if scalar(database, "PRAGMA auto_vacuum") != _INCREMENTAL:
        with suppress(sqlite3.OperationalError):
            database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            database.execute("VACUUM")
