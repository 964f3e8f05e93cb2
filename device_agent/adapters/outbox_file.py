# SPDX-License-Identifier: Apache-2.0
"""The outbox in SQLite: messages stay until a watermark covers them, and the key (epoch, sequence) never repeats.

The epoch is drawn when the database is made, so an outbox that was lost and made anew is not mistaken for
duplicates. When the limit in bytes is reached, the oldest tenth is evicted and a :class:`Gap` message takes its
place at the end of the queue. A gap that is evicted itself is covered by the next one.

What is appended is on the disk when :meth:`OutboxFile.append` returns (synchronous=FULL). An acknowledgement is not
waited for (NORMAL): it is whole or not there after a power cut, and in the second case the messages are sent again
and recognised by their keys. SQLite's log keeps the order, so nothing that was appended goes with it.

A disk that is full when the agent starts must not keep the models from answering: each use opens the database that
is not open yet.
"""

import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from device_agent.adapters.damage import UNREADABLE, check_whole, is_damage, set_aside
from edgefleet.contracts.errors import MessageError, StorageError
from edgefleet.contracts.messages import Event, Gap, Message, Telemetry, decode_message, encode_message

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (epoch TEXT NOT NULL, last_sequence INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS message (
    sequence INTEGER PRIMARY KEY, size_bytes INTEGER NOT NULL, gap_first INTEGER, data BLOB NOT NULL
) STRICT;
"""
_DELETED_SHARE = 0.1
_SIZE = "SELECT coalesce(sum(size_bytes), 0) FROM message"


class OutboxFile:
    """The queue of one device; used from one thread at a time."""

    def __init__(self, path: Path, device: str, *, limit_bytes: int) -> None:
        self._path = path
        self._device = device
        self._limit_bytes = limit_bytes
        self._database: sqlite3.Connection | None = None
        self._epoch = ""
        self._size_bytes = 0
        with suppress(StorageError):  # the first use says it again
            self._open_once()

    @property
    def epoch(self) -> str:
        """The random number that this outbox got when it was made; empty while it could not be opened."""
        return self._epoch

    def append(self, body: Telemetry | Event | Gap, *, created_at: float) -> Message:
        """Store a message durably and return it with its key.

        Raises:
            StorageError: it cannot be written; the sequence is not used up.
            MessageError: no server would take it (and then no watermark would ever pass it).
        """
        with self._using("write to") as database:
            self._make_room(database, created_at)
            message, data = self._insert(database, body, created_at)
            if decode_message(data, Message) != message:
                raise MessageError(f"a {type(body).__name__} breaks the message schema", hint="update the agent")
        return message

    def after(self, sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` messages with higher sequences, in order."""
        with self._using("read") as database:
            rows = database.execute(
                "SELECT sequence, data FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit)
            ).fetchall()
        return [self._decode(number, data) for number, data in rows]

    def gaps(self) -> list[Message]:
        """Return the gaps that wait, in order."""
        with self._using("read") as database:
            rows = database.execute(
                "SELECT sequence, data FROM message WHERE gap_first IS NOT NULL ORDER BY sequence"
            ).fetchall()
        return [self._decode(number, data) for number, data in rows]

    def acknowledge(self, epoch: str, sequence: int) -> None:
        """Let go of everything up to a watermark; one of another epoch is ignored.

        A power cut soon afterwards may undo it.

        Raises:
            MessageError: it covers messages that this outbox never had.
            StorageError: the disk said no; the messages are sent again.
        """
        if epoch != self._epoch:
            return
        with self._using("write to", durably=False) as database:
            last = _scalar(database, "SELECT last_sequence FROM outbox")
            if sequence > last:
                raise MessageError(
                    f"a watermark says {sequence}, and the last message is {last}", hint="check the broker's ACL"
                )
            database.execute("DELETE FROM message WHERE sequence <= ?", (sequence,))
            self._size_bytes = _scalar(database, _SIZE)

    def depth(self) -> int:
        """Return how many messages wait."""
        with self._using("read") as database:
            return _scalar(database, "SELECT count(*) FROM message")

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextmanager
    def _using(self, what: str, *, durably: bool = True) -> Iterator[sqlite3.Connection]:
        """Run one transaction; a database that turns out to be damaged is set aside for a new and empty one."""
        database = self._open_once()
        size_bytes = self._size_bytes
        try:
            # Said before each transaction, so that no failure in between can leave the weaker promise behind.
            database.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
            with database:
                yield database
        except MessageError:
            self._size_bytes = size_bytes
            raise
        except UNREADABLE as error:
            self._size_bytes = size_bytes
            if is_damage(error):
                self._start_afresh()
            raise self._failed(what, error) from error

    def _open_once(self) -> sqlite3.Connection:
        """Return the open database.

        Raises:
            StorageError: the disk says no; the next use tries again.
        """
        if self._database is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                database, self._epoch = _open(self._path)
            except (OSError, *UNREADABLE) as error:
                raise self._failed("open", error) from error
            self._size_bytes = _scalar(database, _SIZE)
            self._database = database
        return self._database

    def _start_afresh(self) -> None:
        with suppress(*UNREADABLE):
            self.close()
        self._database = None
        with suppress(OSError, StorageError):  # the caller learns of the first refusal, and comes again
            set_aside(self._path)
            self._open_once()

    def _insert(
        self, database: sqlite3.Connection, body: Telemetry | Event | Gap, created_at: float
    ) -> tuple[Message, bytes]:
        sequence = _scalar(database, "SELECT last_sequence FROM outbox") + 1
        message = Message(
            v=1, device=self._device, epoch=self._epoch, sequence=sequence, created_at=created_at, body=body
        )
        data = encode_message(message)
        gap_first = body.first if isinstance(body, Gap) else None
        database.execute("UPDATE outbox SET last_sequence = ?", (sequence,))
        database.execute("INSERT INTO message VALUES (?, ?, ?, ?)", (sequence, len(data), gap_first, data))
        self._size_bytes += len(data)
        return message, data

    def _make_room(self, database: sqlite3.Connection, created_at: float) -> None:
        if self._size_bytes < self._limit_bytes:
            return
        goal = self._limit_bytes * (1.0 - _DELETED_SHARE)
        first = last = 0
        for sequence, size_bytes, gap_first in database.execute(
            "SELECT sequence, size_bytes, gap_first FROM message ORDER BY sequence"
        ).fetchall():
            if self._size_bytes < goal:
                break
            first = min(first or sequence, gap_first or sequence)
            last = sequence
            self._size_bytes -= size_bytes
        database.execute("DELETE FROM message WHERE sequence <= ?", (last,))
        self._insert(database, Gap(first=first, last=last), created_at)

    def _decode(self, sequence: int, data: bytes) -> Message:
        try:
            return decode_message(data, Message)
        except MessageError:  # left by an agent with another schema: a gap lets the watermark pass
            gap = Gap(first=sequence, last=sequence)
            return Message(v=1, device=self._device, epoch=self._epoch, sequence=sequence, created_at=0.0, body=gap)

    def _failed(self, what: str, error: Exception) -> StorageError:
        return StorageError(
            f"cannot {what} the outbox '{self._path.name}': {error}", hint="free space or correct the permissions"
        )


def _scalar(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])


def _open(path: Path) -> tuple[sqlite3.Connection, str]:
    try:
        return _connect(path)
    except UNREADABLE as error:
        if not is_damage(error):
            raise
    set_aside(path)
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
        check_whole(database)
        _check_numbers(database, str(row[0]))
    except UNREADABLE:
        database.close()
        raise
    return database, str(row[0])


def _check_numbers(database: sqlite3.Connection, epoch: str) -> None:
    """Refuse what SQLite finds whole, and no server would take."""
    row = database.execute("SELECT last_sequence, (SELECT max(sequence) FROM message) FROM outbox").fetchone()
    if not re.fullmatch("[0-9a-f]{16}", epoch) or not 0 <= (row[1] or 0) <= row[0]:
        raise sqlite3.DatabaseError("malformed epoch or sequence")
