# SPDX-License-Identifier: Apache-2.0
"""The outbox in SQLite: messages stay until a watermark covers them, and the key (epoch, sequence) never repeats.

The epoch is drawn when the database is made, so an outbox that was lost and made anew is not mistaken for
duplicates. When the limit in bytes is reached, the oldest tenth is evicted and a :class:`Gap` message takes its
place at the end of the queue. A gap that is evicted itself is covered by the next one.
"""

import secrets
import sqlite3
from pathlib import Path

from edgefleet.contracts.errors import MessageError, StorageError
from edgefleet.contracts.messages import Event, Gap, Message, Telemetry, decode_message, encode_message

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (epoch TEXT NOT NULL, last_sequence INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS message (
    sequence INTEGER PRIMARY KEY, size_bytes INTEGER NOT NULL, gap_first INTEGER, data BLOB NOT NULL
) STRICT;
"""
_DELETED_SHARE = 0.1


class OutboxFile:
    """The queue of one device; used from one thread at a time."""

    def __init__(self, path: Path, device: str, *, limit_bytes: int) -> None:
        self._path = path
        self._device = device
        self._limit_bytes = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database, self._epoch = _open(path)
            self._size_bytes = self._scalar("SELECT coalesce(sum(size_bytes), 0) FROM message")
        except sqlite3.DatabaseError as error:
            raise self._failed("open", error) from error

    @property
    def epoch(self) -> str:
        """The random number that this outbox got when it was made."""
        return self._epoch

    def append(self, body: Telemetry | Event | Gap, *, created_at: float) -> Message:
        """Store a message durably and return it with its key.

        Raises:
            StorageError: it cannot be written; the sequence is not used up.
        """
        try:
            with self._database:
                self._make_room(created_at)
                return self._insert(body, created_at)
        except sqlite3.DatabaseError as error:
            self._size_bytes = self._scalar("SELECT coalesce(sum(size_bytes), 0) FROM message")
            raise self._failed("write to", error) from error

    def after(self, sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` messages with higher sequences, in order."""
        rows = self._database.execute(
            "SELECT sequence, data FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit)
        )
        return [self._decode(number, data) for number, data in rows]

    def gaps(self) -> list[Message]:
        """Return the gaps that wait, in order."""
        rows = self._database.execute(
            "SELECT sequence, data FROM message WHERE gap_first IS NOT NULL ORDER BY sequence"
        ).fetchall()
        return [self._decode(number, data) for number, data in rows]

    def acknowledge(self, epoch: str, sequence: int) -> None:
        """Let go of everything up to a watermark; one of another epoch is ignored."""
        if epoch != self._epoch:
            return
        try:
            with self._database:
                self._database.execute("DELETE FROM message WHERE sequence <= ?", (sequence,))
        except sqlite3.DatabaseError as error:
            raise self._failed("write to", error) from error
        self._size_bytes = self._scalar("SELECT coalesce(sum(size_bytes), 0) FROM message")

    def depth(self) -> int:
        """Return how many messages wait."""
        return self._scalar("SELECT count(*) FROM message")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _insert(self, body: Telemetry | Event | Gap, created_at: float) -> Message:
        sequence = self._scalar("SELECT last_sequence FROM outbox") + 1
        message = Message(
            v=1, device=self._device, epoch=self._epoch, sequence=sequence, created_at=created_at, body=body
        )
        data = encode_message(message)
        gap_first = body.first if isinstance(body, Gap) else None
        self._database.execute("UPDATE outbox SET last_sequence = ?", (sequence,))
        self._database.execute("INSERT INTO message VALUES (?, ?, ?, ?)", (sequence, len(data), gap_first, data))
        self._size_bytes += len(data)
        return message

    def _make_room(self, created_at: float) -> None:
        if self._size_bytes < self._limit_bytes:
            return
        goal = self._limit_bytes * (1.0 - _DELETED_SHARE)
        first = last = 0
        for sequence, size_bytes, gap_first in self._database.execute(
            "SELECT sequence, size_bytes, gap_first FROM message ORDER BY sequence"
        ).fetchall():
            if self._size_bytes < goal:
                break
            first = min(first or sequence, gap_first or sequence)
            last = sequence
            self._size_bytes -= size_bytes
        self._database.execute("DELETE FROM message WHERE sequence <= ?", (last,))
        self._insert(Gap(first=first, last=last), created_at)

    def _decode(self, sequence: int, data: bytes) -> Message:
        try:
            return decode_message(data, Message)
        except MessageError:  # left by an agent with another schema: a gap lets the watermark pass
            gap = Gap(first=sequence, last=sequence)
            return Message(v=1, device=self._device, epoch=self._epoch, sequence=sequence, created_at=0.0, body=gap)

    def _scalar(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])

    def _failed(self, what: str, error: sqlite3.DatabaseError) -> StorageError:
        return StorageError(
            f"cannot {what} the outbox '{self._path.name}': {error}", hint="free space or correct the permissions"
        )


def _open(path: Path) -> tuple[sqlite3.Connection, str]:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if "malformed" not in str(error) and "not a database" not in str(error):
            raise
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    return _connect(path)


def _connect(path: Path) -> tuple[sqlite3.Connection, str]:
    database = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
        row = database.execute("SELECT epoch FROM outbox").fetchone()
        if row is None:
            row = (secrets.token_hex(8),)
            with database:
                database.execute("INSERT INTO outbox VALUES (?, 0)", row)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database, str(row[0])
