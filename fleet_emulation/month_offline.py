# SPDX-License-Identifier: Apache-2.0
"""A device that reports for a month while nobody listens, and then delivers what its outbox kept to the real server.

One message of telemetry a minute and an event now and then, with the device's clock put forward: the bound in bytes
must hold for the file all the time, every event must arrive, and gaps must tell exactly what did not.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from device_agent.adapters.storage.outbox_file import OutboxFile
from edgefleet.contracts.messages import (
    Confusion,
    Event,
    Message,
    ModelWindow,
    RunningRelease,
    SparseCounts,
    Telemetry,
    encode_message,
)
from edgefleet.contracts.topics import Channel, topic
from fleet_emulation.reporting_rig import DEVICE, TENANT
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.telemetry.telemetry_store import Arrival, TelemetryStore

_MINUTE_S = 60.0
_BATCH = 100
_RELEASE = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the time without a server; ``untold`` messages are neither stored nor named by a gap."""

    minutes: int
    limit_bytes: int
    largest_file_bytes: int
    largest_log_bytes: int
    telemetry_bytes: int
    appended: int
    events: int
    evicted: int
    gaps: int
    events_stored: int
    telemetry_stored: int
    untold: int
    watermark_reached: bool

    @property
    def whole(self) -> bool:
        """Tell whether the bound held, and every message is stored or told."""
        return (
            self.largest_file_bytes <= self.limit_bytes
            and self.events_stored == self.events
            and not self.untold
            and self.watermark_reached
            and self.evicted + self.events_stored + self.telemetry_stored == self.appended
        )


def month_offline(folder: Path, *, minutes: int, limit_bytes: int, event_every: int = 180) -> Month:
    """Report for so many minutes without a server, then deliver."""
    path = folder / "outbox.db"
    outbox = OutboxFile(path, DEVICE, limit_bytes=limit_bytes)
    largest = largest_log = 0
    size_bytes, appended, events = 0, 0, 0
    for body in _bodies(minutes, event_every):
        message = outbox.append(body, created_at=1e9 + appended * _MINUTE_S)
        appended += 1
        events += isinstance(body, Event)
        size_bytes += len(encode_message(message)) if isinstance(body, Telemetry) else 0
        largest = max(largest, path.stat().st_size)
        largest_log = max(largest_log, _log_bytes(path))
    watermark = _deliver(outbox, folder)
    kinds, untold = _account(folder, _last_sequence(path))
    result = Month(
        minutes=minutes,
        limit_bytes=limit_bytes,
        largest_file_bytes=largest,
        largest_log_bytes=largest_log,
        telemetry_bytes=size_bytes // max(appended - events, 1),
        appended=appended,
        events=events,
        evicted=outbox.evicted(),
        gaps=kinds["gap"],
        events_stored=kinds["event"],
        telemetry_stored=kinds["telemetry"],
        untold=untold,
        watermark_reached=watermark == _last_sequence(path),
    )
    outbox.close()
    return result


def _bodies(minutes: int, event_every: int) -> Iterator[Telemetry | Event]:
    for minute in range(minutes):
        window = ModelWindow(
            release=_RELEASE,
            role="active",
            requests=600 + minute % 7,
            latency=SparseCounts(bins=tuple(range(36, 48)), counts=tuple(50 + minute % 9 + i for i in range(12))),
            confidence=SparseCounts(bins=tuple(range(8, 20)), counts=tuple(50 + minute % 11 + i for i in range(12))),
            classes=SparseCounts(bins=tuple(range(10)), counts=tuple(60 + minute % 5 + i for i in range(10))),
            labelled=Confusion(actual=(1, 7), predicted=(7, 7), counts=(1, minute % 13)),
        )
        start = 1e9 + minute * _MINUTE_S
        yield Telemetry(window_start=start, window_end=start + _MINUTE_S, models=(window,), rss_bytes=60 << 20)
        if minute % event_every == 0:
            yield Event(kind="worker-restarted", cause="watchdog", detail=f"in minute {minute}", release=_RELEASE)


def _deliver(outbox: OutboxFile, folder: Path) -> int:
    """Hand all that waits to the server's own store, and return its last watermark."""
    database = Database(folder / "fleet.db")
    database.migrate()
    with database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO device (name, profile, invited_at, enrolled_at) VALUES (?, 'p', 1, 1)", (DEVICE,)
        )
    store = TelemetryStore(database, TENANT, lambda: 2e9)
    store.store([_arrival(gap) for gap in outbox.gaps()])
    watermark = sequence = 0
    while batch := outbox.after(sequence, _BATCH):
        [mark] = store.store([_arrival(message) for message in batch])
        outbox.acknowledge(mark.epoch, mark.sequence)
        watermark, sequence = mark.sequence, batch[-1].sequence
    database.close()
    return watermark


def _account(folder: Path, last: int) -> tuple[Counter[str], int]:
    """Return how many messages of each kind the server has, and how many are neither there nor named by a gap."""
    with closing(sqlite3.connect(folder / "fleet.db")) as database:
        rows = database.execute("SELECT sequence, kind FROM message").fetchall()
        spans = database.execute("SELECT first, last FROM outbox_gap").fetchall()
    known = {sequence for sequence, _ in rows}
    for first, end in spans:
        known |= set(range(first, end + 1))
    return Counter(kind for _, kind in rows), last - len(known)


def _arrival(message: Message) -> Arrival:
    channel: Channel = "telemetry" if isinstance(message.body, Telemetry) else "event"
    return Arrival(topic(TENANT, DEVICE, channel), encode_message(message))


def _last_sequence(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT last_sequence FROM outbox").fetchone()[0])


def _log_bytes(path: Path) -> int:
    """Return the size of SQLite's log or journal beside the file."""
    logs = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal"))
    return sum(log.stat().st_size for log in logs if log.exists())
