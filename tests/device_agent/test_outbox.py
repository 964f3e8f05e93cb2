# SPDX-License-Identifier: Apache-2.0
"""The outbox keeps what its bounds allow, tells exactly what went, and has acknowledged messages again for a server
that lost them.
"""

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.core.eviction import Row, Span, low_value_spans, oldest_span, passed_s
from edgefleet.contracts.messages import Event, Gap, Message, Telemetry

HOUR_S = 3600.0
EVENT = Event(kind="verified", cause="downloaded", detail="x" * 300)
TELEMETRY = Telemetry(window_start=1.0, window_end=2.0, models=())
FIXTURES = Path(__file__).parent / "fixtures" / "schema-1"


def outbox(folder: Path, **limits: float) -> OutboxFile:
    return OutboxFile(folder / "outbox.db", "dev-1", **({"limit_bytes": 1 << 20} | limits))


def covered(messages: list[Message]) -> set[int]:
    """What a server may pass that has these messages."""
    numbers = {message.sequence for message in messages}
    for message in messages:
        if isinstance(message.body, Gap):
            numbers |= set(range(message.body.first, message.body.last + 1))
    return numbers


def shape(messages: list[Message]) -> list[object]:
    """Sequences, and for gaps what they stand for."""
    return [(m.body.first, m.body.last) if isinstance(m.body, Gap) else m.sequence for m in messages]


def test_telemetry_goes_before_events_and_gaps_name_exactly_what_went(tmp_path):
    box = outbox(tmp_path, limit_bytes=2600)
    kinds = [TELEMETRY, TELEMETRY, EVENT, *[TELEMETRY] * 12, EVENT, EVENT]
    for body in kinds:
        box.append(body, created_at=1.0)
    assert shape(box.after(0, 100)) == [3, *range(8, 16), (1, 2), (4, 7), 18, 19]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([EVENT, TELEMETRY, TELEMETRY, TELEMETRY])),
        st.tuples(st.just("hours"), st.integers(-30, 30)),
        st.tuples(st.just("deliver"), st.integers(1, 12)),
        st.tuples(st.just("restore"), st.floats(0.0, 1.0)),
    ),
    max_size=150,
)


@settings(max_examples=20, deadline=None)
@given(operations=OPERATIONS)
def test_whatever_happens_the_server_gets_every_message_or_a_gap_that_names_it(tmp_path_factory, operations):
    """The server stores some of what is sent, answers with its watermark, and may be set back to an older backup."""
    box = outbox(tmp_path_factory.mktemp("outbox"), limit_bytes=5000, limit_s=60 * HOUR_S, keep_s=20 * HOUR_S)
    now, mark, highest, appended = 1e9, 0, 0, 0
    stored: dict[int, Message] = {}
    for what, value in operations:
        if what == "append":
            box.append(value, created_at=now)
            appended += 1
        elif what == "hours":
            now += value * HOUR_S
        elif what == "deliver":
            stored |= {message.sequence: message for message in box.gaps() + box.after(0, value)}
            have = covered(list(stored.values())) | set(range(1, mark + 1))
            while mark + 1 in have:
                mark += 1
            box.acknowledge(box.epoch, mark)
            highest = max(highest, mark)
        else:
            mark = int(mark * value)
            stored = {number: message for number, message in stored.items() if number <= mark}
            box.rewind(mark, created_at=now)
    waiting = box.after(0, 10_000)
    for gap in (m for m in waiting if isinstance(m.body, Gap)):
        named = range(gap.body.first, gap.body.last + 1)
        assert not [m.sequence for m in waiting if m.sequence in named], "a gap names a message that may still be sent"
    have = covered([*stored.values(), *waiting]) | set(range(1, mark + 1))
    last = max([mark, highest, *(m.sequence for m in waiting)])
    assert have >= set(range(1, last + 1))
    assert box.evicted() <= appended
    assert box.depth() == len(waiting)
    box.close()


def test_evicted_messages_are_counted_and_acknowledged_ones_are_not(tmp_path):
    box = outbox(tmp_path, limit_bytes=5000)
    for _ in range(10):
        box.append(EVENT, created_at=1.0)
    box.acknowledge(box.epoch, 10)
    for _ in range(8):
        box.append(EVENT, created_at=1.0)
    assert (box.evicted(), box.depth()) == (0, 8)
    for _ in range(40):
        box.append(EVENT, created_at=1.0)
    kept = [m for m in box.after(0, 100) if isinstance(m.body, Event)]
    assert box.evicted() == 48 - len(kept) > 0
    box.close()
    assert outbox(tmp_path).evicted() == 48 - len(kept)


def test_a_server_that_was_restored_gets_the_acknowledged_messages_again_and_a_gap_for_the_rest(tmp_path):
    box = outbox(tmp_path, keep_s=2 * HOUR_S)
    for hour in range(6):
        for _ in range(5):
            box.append(EVENT, created_at=hour * HOUR_S)
        box.acknowledge(box.epoch, 5 * (hour + 1))
    assert (box.depth(), box.acknowledged()) == (0, 30)
    assert box.rewind(29, created_at=1.0) == 1
    assert box.rewind(30, created_at=1.0) == 0
    assert box.rewind(2, created_at=1.0) == 16
    assert shape(box.after(0, 100)) == [*range(16, 31), (3, 15)]
    assert covered(box.after(0, 100)) == set(range(3, 32))


def test_without_a_time_to_keep_acknowledged_messages_are_gone_with_the_next_one(tmp_path):
    box = outbox(tmp_path, keep_s=0.0)
    for _ in range(5):
        box.append(EVENT, created_at=1.0)
    box.acknowledge(box.epoch, 5)
    box.append(EVENT, created_at=1.0)
    assert box.rewind(1, created_at=1.0) == 2
    assert shape(box.after(0, 100)) == [6, (2, 5)]


def test_messages_are_let_go_when_the_device_ran_too_long_without_a_server(tmp_path):
    box = outbox(tmp_path, limit_s=3 * HOUR_S)
    for hour in range(6):
        box.append(EVENT, created_at=hour * HOUR_S)
    assert shape(box.after(0, 100)) == [3, 4, (1, 1), 6, (2, 2), 8]
    assert box.evicted() == 2


@pytest.mark.parametrize("jump_s", [50 * 365 * 86_400.0, -50 * 365 * 86_400.0])
def test_a_clock_that_jumps_makes_no_message_old(tmp_path, jump_s):
    box = outbox(tmp_path, limit_s=30 * HOUR_S, keep_s=30 * HOUR_S)
    for _ in range(3):
        box.append(EVENT, created_at=2e9)
    box.append(EVENT, created_at=2e9 + jump_s)
    box.append(EVENT, created_at=2e9)
    assert shape(box.after(0, 100)) == [1, 2, 3, 4, 5]


def test_the_file_stays_within_its_limit_however_long_nobody_listens(tmp_path):
    limit_bytes = 128 << 10
    box = outbox(tmp_path, limit_bytes=limit_bytes)
    bodies = [TELEMETRY, EVENT, Event(kind="verified", cause="downloaded", detail="y" * 900)]
    largest_log = 0
    for number in range(1200):
        box.append(bodies[number % 3], created_at=number * 60.0)
        largest_log = max(largest_log, (tmp_path / "outbox.db-journal").stat().st_size)
    box.close()
    assert 0.5 * limit_bytes < (tmp_path / "outbox.db").stat().st_size <= limit_bytes
    assert largest_log == 0, "it is empty again after each message"


def test_space_is_given_back_when_the_server_has_the_messages(tmp_path):
    box = outbox(tmp_path, keep_s=HOUR_S, limit_bytes=1 << 20)
    for _ in range(600):
        box.append(EVENT, created_at=0.0)
    box.acknowledge(box.epoch, 600)
    for hour in range(5):
        box.append(TELEMETRY, created_at=hour * HOUR_S)
    box.close()
    assert (tmp_path / "outbox.db").stat().st_size < 128 << 10


def test_an_outbox_of_an_older_agent_goes_on_and_back(tmp_path):
    """The file as schema 1 wrote it; afterwards its own statements still work on it."""
    path = tmp_path / "outbox.db"
    with sqlite3.connect(path) as database:
        database.executescript((FIXTURES / "outbox.sql").read_text())
    database.close()
    box = outbox(tmp_path)
    assert [m.sequence for m in box.after(0, 100)] == [3, 4, 5, 6]
    box.acknowledge(box.epoch, 4)
    assert box.append(EVENT, created_at=1.0).sequence == 7
    box.close()
    with sqlite3.connect(path) as older:
        assert older.execute("SELECT last_sequence FROM outbox").fetchone() == (7,)
        older.execute("UPDATE outbox SET last_sequence = 8")
        older.execute("INSERT INTO message VALUES (?, ?, ?, ?)", (8, 2, None, b"{}"))
        older.execute("DELETE FROM message WHERE sequence <= 5")
        assert older.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    older.close()
    assert [m.sequence for m in outbox(tmp_path).after(0, 100)] == [6, 7, 8]


def test_an_older_agent_reads_messages_with_what_came_later_and_this_one_reads_them_whole(tmp_path):
    renewed = Event(kind="certificate-renewed", cause="due", detail="until 2030")
    box = outbox(tmp_path)
    box.append(renewed, created_at=1.0)
    box.append(EVENT, created_at=1.0)
    assert [message.body for message in box.after(0, 10)] == [renewed, EVENT]
    box.close()
    with sqlite3.connect(tmp_path / "outbox.db") as older:
        [(first,), _] = older.execute("SELECT data FROM message").fetchall()
        assert json.loads(first)["body"] == {
            "type": "event", "kind": "state-repaired", "cause": "certificate-renewed",
            "detail": "certificate-renewed (due) until 2030",
        }  # fmt: skip
        older.execute("DELETE FROM message WHERE sequence = 1")
    older.close()
    again = outbox(tmp_path)
    assert [message.body for message in again.after(0, 10)] == [EVENT]
    again.close()
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        assert database.execute("SELECT count(*) FROM extension").fetchone() == (0,)
    database.close()


def test_the_runs_that_go_end_at_what_stays():
    rows = [Row(n, 300, None, n not in (3, 4, 8)) for n in (1, 2, 3, 4, 5, 6, 8, 9, 11)]
    assert low_value_spans(rows, 1) == [Span(1, 1)]
    assert low_value_spans(rows, 400) == [Span(1, 2), Span(5, 6)]
    assert low_value_spans(rows, 10_000) is None
    assert oldest_span(rows, 700) == Span(1, 3)
    assert oldest_span([Row(9, 100, 2, False)], 50) == Span(2, 9)
    assert oldest_span([], 50) is None


@pytest.mark.parametrize(("then", "now", "passed"), [(0, 60, 60), (60, 0, 0), (0, 1e9, 86_400)])
def test_a_look_at_the_clock_ages_by_a_day_at_most(then, now, passed):
    assert passed_s(then, now) == passed


def test_a_damaged_message_becomes_a_gap(tmp_path):
    box = outbox(tmp_path)
    for _ in range(3):
        box.append(EVENT, created_at=0.0)
    box.close()
    damaged = "data = CAST(replace(data, 'downloaded', 'downloaaed') AS BLOB)"
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        for table in ("message", "extension"):
            database.execute(f"UPDATE {table} SET {damaged} WHERE sequence = 2")  # noqa: S608 - ours
    database.close()
    assert [m.body for m in outbox(tmp_path).after(0, 10)] == [EVENT, Gap(first=2, last=2), EVENT]


def test_a_last_number_that_went_back_starts_a_new_epoch(tmp_path):
    box = outbox(tmp_path)
    for _ in range(3):
        box.append(EVENT, created_at=0.0)
    box.acknowledge(box.epoch, 3)
    epoch = box.epoch
    box.close()
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute("DELETE FROM message")
        database.execute("UPDATE upkeep SET acknowledged = 1")
        database.execute("UPDATE outbox SET last_sequence = 1")
    database.close()
    again = outbox(tmp_path)
    assert again.epoch != epoch
    assert again.append(EVENT, created_at=0.0).sequence == 1


def test_what_an_older_agent_appended_has_no_seal_and_is_taken(tmp_path):
    box = outbox(tmp_path)
    box.append(EVENT, created_at=0.0)
    box.close()
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute(
            "INSERT INTO message SELECT 2, size_bytes, NULL, "
            "CAST(replace(data, '\"sequence\":1', '\"sequence\":2') AS BLOB) FROM message"
        )
        database.execute("UPDATE outbox SET last_sequence = 2")
    database.close()
    box = outbox(tmp_path)
    assert box.append(EVENT, created_at=0.0).sequence == 3
    assert [m.body for m in box.after(0, 10)] == [EVENT] * 3
