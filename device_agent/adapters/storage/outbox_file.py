# SPDX-License-Identifier: Apache-2.0
"""The outbox in SQLite: messages stay until a watermark covers them, and the key (epoch, sequence) never repeats.

The epoch is drawn when the database is made, so an outbox that was lost and made anew is not mistaken for
duplicates. What was acknowledged is kept for a while, so that a server that was restored from a backup can have it
again (:meth:`OutboxFile.rewind`).

When the limit in bytes is reached, a tenth of it is made free: first by what was acknowledged, then by the oldest
telemetry, then by the oldest messages of any kind. What was not acknowledged is replaced by :class:`Gap` messages at
the end of the queue, which name exactly what went. So are messages older than the limit in time, which counts the time
that the device was running: a clock that jumps makes no message old.

What is appended is on the disk when :meth:`OutboxFile.append` returns (synchronous=FULL), and in the file itself: a
log beside it (WAL) would be cut at its first damaged page, and the numbers of what was behind would be used again. An
acknowledgement is written with the next message; one that a power cut undoes only sends messages again, which are
recognised by their keys. Messages and the last number are sealed: a damaged message becomes a gap.

A disk that is full when the agent starts must not keep the models from answering: each use opens the database that
is not open yet.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from device_agent.adapters.storage.damage import UNREADABLE, is_damage, set_aside
from device_agent.adapters.storage.outbox_database import check_seal, give_back, open_outbox, scalar, seal, used_bytes
from device_agent.core.eviction import DAY_S, Row, Span, low_value_spans, oldest_span, passed_s
from edgefleet.contracts.errors import MessageError, StorageError
from edgefleet.contracts.message_schema import downgrade
from edgefleet.contracts.messages import (
    FIRST_SCHEMA,
    MESSAGE_LIMIT_BYTES,
    SCHEMA,
    Event,
    Gap,
    Message,
    Telemetry,
    decode_message,
    encode_message,
)

_DELETED_SHARE = 0.1
_SIZE = "SELECT sum(size_bytes) FROM message"
_WAITING = (
    "SELECT sequence, coalesce(extension.data, message.data), crc "
    "FROM message LEFT JOIN extension USING (sequence) LEFT JOIN seal USING (sequence) WHERE sequence > ?"
)
_TELEMETRY = b'"body":{"type":"telemetry"'
_MOMENT_S = 3600.0


class OutboxFile:
    """The queue of one device; used from one thread at a time.

    ``limit_bytes`` holds for the database file; ``limit_s`` and ``keep_s`` count seconds that the device was running:
    of messages since they were made, and of acknowledged ones since then.
    """

    def __init__(
        self, path: Path, device: str, *, limit_bytes: int, limit_s: float = 90 * DAY_S, keep_s: float = 3 * DAY_S
    ) -> None:
        self._path = path
        self._device = device
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s
        self._keep_s = keep_s
        self._database: sqlite3.Connection | None = None
        self._epoch = ""
        self._size_bytes = 0
        self._heard = 0
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
            self._write_heard(database)
            self._grow_older(database, created_at)
            self._make_room(database, created_at)
            message, data = self._insert(database, body, created_at)
            if decode_message(data, Message) != downgrade(message, FIRST_SCHEMA):
                raise MessageError(f"a {type(body).__name__} breaks the message schema", hint="update the agent")
        return message

    def after(self, sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` messages with higher sequences that are not acknowledged, in order."""
        return self._waiting("sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit))

    def gaps(self) -> list[Message]:
        """Return the gaps that wait, in order."""
        return self._waiting("gap_first IS NOT NULL ORDER BY sequence")

    def acknowledge(self, epoch: str, sequence: int) -> None:
        """Send nothing up to a watermark any more; one of another epoch is ignored.

        It is written with the next message; a power cut before that undoes it.

        Raises:
            MessageError: it covers messages that this outbox never had.
            StorageError: the outbox cannot be read.
        """
        if epoch != self._epoch:
            return
        with self._using("read") as database:
            last = scalar(database, "SELECT last_sequence FROM outbox")
            if sequence > last:
                raise MessageError(
                    f"a watermark says {sequence}, and the last message is {last}", hint="check the broker's ACL"
                )
            self._heard = max(self._heard, sequence)

    def rewind(self, sequence: int, *, created_at: float) -> int:
        """Let messages above ``sequence`` wait again, as the server has lost them; return how many do.

        Those that were not kept are replaced by a gap.

        Raises:
            StorageError: the disk said no.
        """
        with self._using("write to") as database:
            if sequence >= self._acknowledged(database):
                return 0
            self._heard = 0
            database.execute("UPDATE upkeep SET acknowledged = ?", (sequence,))
            last = scalar(database, "SELECT last_sequence FROM outbox")
            lowest = scalar(database, "SELECT min(sequence) FROM message WHERE sequence > ?", (sequence,)) or last + 1
            if lowest > sequence + 1:
                self._insert(database, Gap(first=sequence + 1, last=lowest - 1), created_at)
            return scalar(database, "SELECT count(*) FROM message WHERE sequence > ?", (sequence,))

    def acknowledged(self) -> int:
        """Return the highest watermark that was heard, and is remembered."""
        with self._using("read") as database:
            return self._acknowledged(database)

    def evicted(self) -> int:
        """Return how many messages were evicted in this epoch before any watermark covered them."""
        with self._using("read") as database:
            return scalar(database, "SELECT evicted FROM upkeep")

    def depth(self) -> int:
        """Return how many messages wait."""
        with self._using("read") as database:
            return scalar(database, "SELECT count(*) FROM message WHERE sequence > ?", (self._acknowledged(database),))

    def close(self) -> None:
        """Write what was acknowledged, and close the database."""
        if self._database is not None:
            with suppress(StorageError), self._using("write to") as database:
                self._write_heard(database)
        if self._database is not None:
            self._database.close()
            self._database = None

    # ------------------------------------------------------------------ transactions

    @contextmanager
    def _using(self, what: str) -> Iterator[sqlite3.Connection]:
        """Run one transaction; a database that turns out to be damaged is set aside for a new and empty one."""
        database = self._open_once()
        size_bytes = self._size_bytes
        try:
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
                database, self._epoch = open_outbox(self._path)
            except (OSError, *UNREADABLE) as error:
                raise self._failed("open", error) from error
            self._size_bytes, self._heard = scalar(database, _SIZE), 0
            self._database = database
        return self._database

    def _start_afresh(self) -> None:
        with suppress(*UNREADABLE):
            self.close()
        self._database = None
        with suppress(OSError, StorageError):  # the caller learns of the first refusal, and comes again
            set_aside(self._path)
            self._open_once()

    def _failed(self, what: str, error: Exception) -> StorageError:
        return StorageError(
            f"cannot {what} the outbox '{self._path.name}': {error}", hint="free space or correct the permissions"
        )

    # ------------------------------------------------------------------ messages

    def _insert(
        self, database: sqlite3.Connection, body: Telemetry | Event | Gap, created_at: float
    ) -> tuple[Message, bytes]:
        sequence = scalar(database, "SELECT last_sequence FROM outbox") + 1
        message = Message(
            v=SCHEMA, device=self._device, epoch=self._epoch, sequence=sequence, created_at=created_at, body=body
        )
        older = downgrade(message, FIRST_SCHEMA)  # what an agent of before can read, if it takes this device over
        data = encode_message(older)
        extension = b"" if older.body == body else encode_message(message)
        gap_first = body.first if isinstance(body, Gap) else None
        database.execute("UPDATE outbox SET last_sequence = ?", (sequence,))
        size_bytes = len(data) + len(extension)
        database.execute("INSERT INTO message VALUES (?, ?, ?, ?)", (sequence, size_bytes, gap_first, data))
        if extension:
            database.execute("INSERT INTO extension VALUES (?, ?)", (sequence, extension))
        seal(database, self._epoch, sequence, extension or data)
        self._size_bytes += size_bytes
        return message, data

    def _waiting(self, condition: str, parameters: tuple[int, ...] = ()) -> list[Message]:
        with self._using("read") as database:
            rows = database.execute(
                f"{_WAITING} AND {condition}", (self._acknowledged(database), *parameters)
            ).fetchall()
        return [self._decode(number, data, crc) for number, data, crc in rows]

    def _decode(self, sequence: int, data: bytes, crc: int | None) -> Message:
        try:
            check_seal(sequence, data, crc)
            return decode_message(data, Message)
        except MessageError:  # damaged, or left by an agent with another schema: a gap lets the watermark pass
            gap = Gap(first=sequence, last=sequence)
            return Message(
                v=SCHEMA, device=self._device, epoch=self._epoch, sequence=sequence, created_at=0.0, body=gap
            )

    def _acknowledged(self, database: sqlite3.Connection) -> int:
        return max(scalar(database, "SELECT acknowledged FROM upkeep"), self._heard)

    def _write_heard(self, database: sqlite3.Connection) -> None:
        if self._heard:
            database.execute("UPDATE upkeep SET acknowledged = max(acknowledged, ?)", (self._heard,))
            if not self._keep_s:
                self._drop_up_to(database, self._heard)

    # ------------------------------------------------------------------ room

    def _make_room(self, database: sqlite3.Connection, created_at: float) -> None:
        """Free a tenth of the limit where the messages, or the pages that hold them, are over it."""
        share_bytes = int(self._limit_bytes * _DELETED_SHARE)
        margin_bytes = min(MESSAGE_LIMIT_BYTES, self._limit_bytes // 4)  # for the pages of the next message
        over_bytes = max(
            self._size_bytes - self._limit_bytes, used_bytes(database) - max(self._limit_bytes, 1 << 16) + margin_bytes
        )
        if over_bytes < 0:
            return
        needed_bytes = over_bytes + share_bytes - self._drop_kept(database, over_bytes + share_bytes)
        if needed_bytes <= 0:
            return
        waiting = self._rows(database, self._acknowledged(database))
        spans = low_value_spans(waiting, needed_bytes)
        if spans is None:
            oldest = oldest_span(self._rows(database, self._acknowledged(database)), needed_bytes)
            spans = [oldest] if oldest else []
        self._evict(database, spans, created_at)

    def _drop_kept(self, database: sqlite3.Connection, wanted_bytes: int) -> int:
        """Let go of the oldest acknowledged messages, and return how many bytes that freed."""
        freed_bytes = last = 0
        for sequence, size_bytes in database.execute(
            "SELECT sequence, size_bytes FROM message WHERE sequence <= ? ORDER BY sequence",
            (self._acknowledged(database),),
        ):
            if freed_bytes >= wanted_bytes:
                break
            freed_bytes += size_bytes
            last = sequence
        self._drop_up_to(database, last)
        return freed_bytes

    def _evict(self, database: sqlite3.Connection, spans: list[Span], created_at: float) -> None:
        """Replace messages by gap records."""
        for span in spans:
            where = "WHERE sequence BETWEEN ? AND ?"
            count = scalar(database, f"SELECT count(*) FROM message {where} AND gap_first IS NULL", span)  # noqa: S608
            database.execute("UPDATE upkeep SET evicted = evicted + ?", (count,))
            self._delete(database, where, span)
            self._insert(database, Gap(first=span.first, last=span.last), created_at)

    def _drop_up_to(self, database: sqlite3.Connection, sequence: int) -> None:
        if sequence:
            self._delete(database, "WHERE sequence <= ?", (sequence,))

    def _delete(self, database: sqlite3.Connection, where: str, parameters: tuple[int, ...]) -> None:
        freed_bytes = scalar(database, f"{_SIZE} {where}", parameters)
        for table in ("message", "extension", "seal"):
            database.execute(f"DELETE FROM {table} {where}", parameters)  # noqa: S608 - both are ours
        self._size_bytes -= freed_bytes

    @staticmethod
    def _rows(database: sqlite3.Connection, beyond: int) -> Iterator[Row]:
        found = database.execute(
            "SELECT sequence, size_bytes, gap_first, instr(data, ?) FROM message WHERE sequence > ? ORDER BY sequence",
            (_TELEMETRY, beyond),
        )
        return (Row(sequence, size, gap_first, bool(low)) for sequence, size, gap_first, low in found)

    # ------------------------------------------------------------------ age

    def _grow_older(self, database: sqlite3.Connection, now: float) -> None:
        """Once an hour: note up to where messages are now, and let go of what was there too long ago."""
        ran_s, wall = database.execute("SELECT ran_s, wall FROM upkeep").fetchone()
        step_s = 0.0 if wall is None else passed_s(wall, now)
        if wall is not None and now >= wall and step_s < _MOMENT_S:
            return
        ran_s += step_s
        database.execute("UPDATE upkeep SET ran_s = ?, wall = ?", (ran_s, now))
        database.execute(
            "INSERT INTO moment SELECT ?, last_sequence, acknowledged FROM outbox JOIN upkeep ON 1", (ran_s,)
        )
        self._drop_aged(database, ran_s, now)
        give_back(database)

    def _drop_aged(self, database: sqlite3.Connection, ran_s: float, now: float) -> None:
        then = "FROM moment WHERE ran_s <= ?"
        kept = scalar(database, f"SELECT max(acknowledged) {then}", (ran_s - self._keep_s,))
        acknowledged = self._acknowledged(database)
        self._drop_up_to(database, min(kept, acknowledged))
        old = scalar(database, f"SELECT max(last_sequence) {then}", (ran_s - self._limit_s,))
        first = scalar(database, "SELECT min(sequence) FROM message WHERE sequence > ?", (acknowledged,))
        if first and old >= first:
            lowest = scalar(
                database,
                "SELECT min(min(sequence, coalesce(gap_first, sequence))) FROM message WHERE sequence BETWEEN ? AND ?",
                (first, old),
            )
            self._evict(database, [Span(lowest, old)], now)
        horizon_s = ran_s - max(self._keep_s, self._limit_s)
        database.execute("DELETE FROM moment WHERE ran_s < ?", (horizon_s,))
