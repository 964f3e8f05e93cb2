# SPDX-License-Identifier: Apache-2.0
"""What devices report, stored exactly once by (device, epoch, sequence), in batches of one transaction each.

When :meth:`TelemetryStore.store` returns, everything in the batch is on disk; only then may a watermark be sent.
Figures are summed per bundle, device, role and second, at the end of the device's window (but never later than its
arrival): a window is one row, so finer buckets cost nothing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy.engine import Connection

from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.messages import Event, Gap, Message, ModelWindow, State, Telemetry, decode_message
from edgefleet.contracts.topics import parse_topic
from fleet_server.adapters.storage.database import Database
from fleet_server.core.telemetry.watermark import advance

#: Larger numbers are no sequence, class or counter of anything real, and SQLite could not hold them.
LARGEST_NUMBER = 1 << 53
#: More than any device counts in one window; sums of these stay within what SQLite adds up.
LARGEST_COUNT = 1 << 32
#: Messages behind a hole in the sequence that one look for the watermark reads.
_LOOK_AHEAD = 10_000
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrival:
    """One MQTT message as it came in."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Mark:
    """Up to where an outbox's messages are stored."""

    device: str
    epoch: str
    sequence: int


_IN_THE_FLEET = """
SELECT name FROM device LEFT JOIN device_identity AS i ON i.device = name
WHERE enrolled_at IS NOT NULL AND i.decommissioned_at IS NULL
"""


class TelemetryStore:
    """Stores batches of arrivals."""

    def __init__(self, database: Database, tenant: str, clock: Callable[[], float]) -> None:
        self._database = database
        self._tenant = tenant
        self._clock = clock

    def store(self, arrivals: Sequence[Arrival]) -> list[Mark]:
        """Store a batch and return the watermark of each outbox that had messages in it.

        What is malformed, of another device than its topic says, or of a device that is unknown or was decommissioned
        (its certificate may still open the broker) is counted and dropped.
        """
        counts: Counter[str] = Counter()
        messages: list[Message] = []
        states: list[State] = []
        for arrival in arrivals:
            try:
                value = self._decode(arrival)
            except MessageError as error:
                counts["malformed"] += 1
                _LOG.warning("dropped a message: %s", error)
                continue
            if isinstance(value, State):
                states.append(value)
            else:
                messages.append(value)
        with self._database.write() as connection:
            return self._write(connection, messages, states, counts)

    def counts(self) -> dict[str, int]:
        """Return how many messages were stored, repeated, malformed or from unknown devices."""
        with self._database.read() as connection:
            rows = connection.exec_driver_sql("SELECT what, count FROM ingestion_count")
            return {str(what): int(count) for what, count in rows}

    def _decode(self, arrival: Arrival) -> Message | State:
        parts = parse_topic(arrival.topic)
        value: Message | State
        if parts.channel == "state":
            value = decode_message(arrival.payload, State)
        else:
            value = decode_message(arrival.payload, Message)
        if parts.tenant != self._tenant or value.device != parts.device:
            raise MessageError(
                f"a message on '{arrival.topic}' says that it is from '{value.device}'", hint="check the broker's ACL"
            )
        if any(number > LARGEST_NUMBER for number in _numbers(value)):
            raise MessageError(f"a message from '{value.device}' has a number over 2**53", hint="update the sender")
        if any(count > LARGEST_COUNT for count in _counts(value)):
            raise MessageError(f"a message from '{value.device}' has a count over 2**32", hint="update the sender")
        return value

    def _write(
        self, connection: Connection, messages: Sequence[Message], states: Sequence[State], counts: Counter[str]
    ) -> list[Mark]:
        now = self._clock()
        known = {row.name for row in connection.exec_driver_sql(_IN_THE_FLEET)}
        outboxes: dict[tuple[str, str], None] = {}
        for message in messages:
            if message.device not in known:
                counts["unknown-device"] += 1
                continue
            outboxes[(message.device, message.epoch)] = None
            counts["stored" if _insert_message(connection, message, now) else "repeated"] += 1
        for state in states:
            if state.device in known:
                _write_state(connection, state, now)
        for what, count in counts.items():
            connection.exec_driver_sql(
                "INSERT INTO ingestion_count (what, count) VALUES (?, ?) "
                "ON CONFLICT (what) DO UPDATE SET count = count + excluded.count",
                (what, count),
            )
        return [_advance_mark(connection, device, epoch) for device, epoch in outboxes]


def _insert_message(connection: Connection, message: Message, now: float) -> bool:
    """Store a message and what follows from it; tell whether it was new."""
    body = message.body
    kind = {Telemetry: "telemetry", Event: "event", Gap: "gap"}[type(body)]
    inserted = connection.exec_driver_sql(
        "INSERT OR IGNORE INTO message (device, epoch, sequence, kind, created_at, received_at, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            message.device,
            message.epoch,
            message.sequence,
            kind,
            message.created_at,
            now,
            msgspec.json.encode(body).decode(),
        ),
    )
    if inserted.rowcount != 1:
        return False
    if isinstance(body, Telemetry):
        _add_figures(connection, message.device, body, now)
    elif isinstance(body, Event):
        _insert_event(connection, message, body, now)
    else:
        connection.exec_driver_sql(
            "INSERT OR IGNORE INTO outbox_gap (device, epoch, first, last) VALUES (?, ?, ?, ?)",
            (message.device, message.epoch, body.first, body.last),
        )
    return True


def _add_figures(connection: Connection, device: str, telemetry: Telemetry, now: float) -> None:
    bucket = int(max(0.0, min(telemetry.window_end, now)))
    for window in telemetry.models:
        labelled, correct = _labelled(window)
        connection.exec_driver_sql(
            "INSERT INTO model_figures (bundle_sha256, device, role, bucket, requests, failed, non_finite, compared, "
            "disagreed, labelled, correct) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (device, bucket, bundle_sha256, role) DO UPDATE SET requests = requests + excluded.requests, "
            "failed = failed + excluded.failed, non_finite = non_finite + excluded.non_finite, "
            "compared = compared + excluded.compared, disagreed = disagreed + excluded.disagreed, "
            "labelled = labelled + excluded.labelled, correct = correct + excluded.correct",
            (
                window.release.bundle_sha256,
                device,
                window.role,
                bucket,
                window.requests,
                window.failed,
                window.non_finite,
                window.compared,
                window.disagreed,
                labelled,
                correct,
            ),
        )
        _add_confusion(connection, window)


def _labelled(window: ModelWindow) -> tuple[int, int]:
    confusion = window.labelled
    cells = zip(confusion.actual, confusion.predicted, confusion.counts, strict=True)
    return sum(confusion.counts), sum(count for actual, predicted, count in cells if actual == predicted)


def _add_confusion(connection: Connection, window: ModelWindow) -> None:
    confusion = window.labelled
    for actual, predicted, count in zip(confusion.actual, confusion.predicted, confusion.counts, strict=True):
        connection.exec_driver_sql(
            "INSERT INTO confusion (bundle_sha256, actual, predicted, count) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (bundle_sha256, actual, predicted) DO UPDATE SET count = count + excluded.count",
            (window.release.bundle_sha256, actual, predicted, count),
        )


def _insert_event(connection: Connection, message: Message, event: Event, now: float) -> None:
    connection.exec_driver_sql(
        "INSERT INTO device_event (device, received_at, created_at, kind, cause, detail, bundle_sha256, version, "
        "counter, seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message.device,
            now,
            message.created_at,
            event.kind,
            event.cause,
            event.detail,
            event.release.bundle_sha256 if event.release else None,
            event.release.version if event.release else None,
            event.counter,
            event.seconds,
        ),
    )


def _write_state(connection: Connection, state: State, now: float) -> None:
    """Keep the newest state. A last will is as old as the connection that it was left with: of one that is not newer
    than what is known, only that the device is gone counts.
    """
    if not state.connected and not _is_newer(connection, state):
        connection.exec_driver_sql(
            "UPDATE device_state SET connected = 0, received_at = ?, "
            "body = json_set(body, '$.connected', json('false')) WHERE device = ?",
            (now, state.device),
        )
        return
    connection.exec_driver_sql(
        "INSERT OR REPLACE INTO device_state "
        "(device, connected, status, counter, running_sha256, candidate_sha256, body, received_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            state.device,
            state.connected,
            state.status,
            state.counter,
            state.running.bundle_sha256 if state.running else None,
            state.candidate.bundle_sha256 if state.candidate else None,
            msgspec.json.encode(state).decode(),
            now,
        ),
    )


def _is_newer(connection: Connection, state: State) -> bool:
    body = connection.exec_driver_sql("SELECT body FROM device_state WHERE device = ?", (state.device,)).scalar()
    if body is None:
        return True
    known = msgspec.json.decode(body, type=State)
    return (state.counter, state.changed_at) > (known.counter, known.changed_at)


def _advance_mark(connection: Connection, device: str, epoch: str) -> Mark:
    key = (device, epoch)
    before = connection.exec_driver_sql(
        "SELECT watermark FROM outbox_mark WHERE device = ? AND epoch = ?", key
    ).scalar()
    mark = int(before or 0)
    stored = connection.exec_driver_sql(
        "SELECT sequence FROM message WHERE device = ? AND epoch = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (*key, mark, _LOOK_AHEAD),
    ).scalars()
    gaps = connection.exec_driver_sql(
        "SELECT first, last FROM outbox_gap WHERE device = ? AND epoch = ? AND last > ?", (*key, mark)
    )
    mark = advance(mark, list(stored), [(row.first, row.last) for row in gaps])
    connection.exec_driver_sql(
        "INSERT OR REPLACE INTO outbox_mark (device, epoch, watermark) VALUES (?, ?, ?)", (*key, mark)
    )
    return Mark(device, epoch, mark)


def _numbers(value: Message | State) -> Iterable[int]:
    if isinstance(value, State):
        yield value.counter
        return
    yield value.sequence
    body = value.body
    if isinstance(body, Gap):
        yield body.last
        yield body.first
    elif isinstance(body, Event):
        yield body.counter or 0
    else:
        for window in body.models:
            yield from (*window.labelled.actual, *window.labelled.predicted)


def _counts(value: Message | State) -> Iterable[int]:
    if isinstance(value, Message) and isinstance(value.body, Telemetry):
        for window in value.body.models:
            yield from (window.requests, window.failed, window.non_finite, window.compared, window.disagreed)
            yield sum(window.labelled.counts)
