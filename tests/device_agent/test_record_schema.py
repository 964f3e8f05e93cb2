# SPDX-License-Identifier: Apache-2.0
"""The record between agents of different schemas: up, down and up again without a loss, and damage that is noticed."""

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.storage.state_file import StateFile, read_record
from device_agent.core.life.record import DeviceRecord, Fault, Progress, Quarantined, Software
from device_agent.core.life.record_schema import (
    SCHEMA,
    BaseRecord,
    DamagedRecordError,
    Saved,
    decode,
    encode,
    from_base,
    to_base,
)
from device_agent.core.life.release_set import Member, set_of
from device_agent.core.recall import Recall
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.messages import RunningRelease

FIXTURES = Path(__file__).parent / "fixtures" / "schema-1"
OLD_RECORDS = json.loads((FIXTURES / "records.json").read_text())
HERE = Software(agent="1.0.0", runtime="ai-edge-litert 2.3.0")

releases = st.tuples(st.sampled_from(["digits", "sounds", "words"]), st.sampled_from(["1.0.0", "2.0.0-rc.1"])).map(
    lambda named: RunningRelease(name=named[0], version=named[1], bundle_sha256=sha256_hex(repr(named).encode()))
)
sets = st.lists(st.builds(Member, release=releases, compat_hash=st.just("c" * 64)), max_size=3).map(set_of)
records = st.builds(
    DeviceRecord,
    status=st.sampled_from(["idle", "shadow", "trial", "rolling-back", "hyperspace"]),
    counter=st.integers(0, 9),
    order_counter=st.integers(0, 9),
    active=sets,
    previous=sets,
    candidate=sets,
    progress=st.dictionaries(
        st.sampled_from(["digits", "sounds"]), st.builds(Progress, requests=st.integers(0, 9)), max_size=2
    ),
    quarantine=st.lists(
        st.builds(Quarantined, bundle_sha256=st.just("d" * 64), software=st.sampled_from([HERE, Software()])),
        max_size=2,
    ).map(tuple),
    recall=st.sampled_from([Recall(), Recall(minimum={"digits": "1.5.0"}), Recall(stopped=True)]),
    fault=st.sampled_from([None, Fault(cause="crash", at=1.5)]),
    clean_stop=st.booleans(),
)


def keys_of(value):
    """Return the names of all fields, at every depth, with null for what is absent."""
    return {key: keys_of(item) for key, item in value.items()} if isinstance(value, dict) else None


@pytest.mark.parametrize("name", OLD_RECORDS)
def test_a_record_of_schema_1_is_read_and_written_back_as_it_was(name):
    text = json.dumps(OLD_RECORDS[name])
    record = decode(Saved(text))
    assert json.loads(encode(record).base) == OLD_RECORDS[name]


@given(records)
def test_the_base_has_the_fields_of_schema_1_and_no_others(record):
    written = json.loads(encode(record).base)
    empty = OLD_RECORDS["new"]
    assert set(written) == set(empty)
    for part in ("policy", "progress"):
        assert keys_of(written[part]) == keys_of(empty[part])


@given(records)
def test_what_is_encoded_is_decoded(record):
    assert decode(encode(record)) == record


@given(records, st.integers(10, 99))
def test_an_older_agent_in_between_loses_nothing_that_it_does_not_change(record, counter):
    saved = encode(record)
    older = msgspec.structs.replace(msgspec.json.decode(saved.base, type=BaseRecord), counter=counter, clean_stop=True)
    back = decode(saved._replace(base=msgspec.json.encode(older).decode()))
    assert (back.counter, back.clean_stop, back.status) == (counter, True, record.status)
    assert back.recall == record.recall
    assert {entry.bundle_sha256 for entry in back.quarantine} == {entry.bundle_sha256 for entry in record.quarantine}
    if not record.trying and not record.candidate:
        assert (back.active, back.previous) == (record.active, record.previous) or record.previous == ()
    assert to_base(back) == older


@given(records)
def test_an_agent_of_a_newer_schema_in_between_is_believed(record):
    ours, theirs = encode(record), " " + msgspec.json.encode(BaseRecord(counter=77)).decode()
    back = decode(ours._replace(base=theirs, other_sha256s=(sha256_hex(theirs.encode()),)))
    assert back == from_base(BaseRecord(counter=77), record)
    with pytest.raises(DamagedRecordError):
        decode(ours._replace(base=theirs))


@given(records, st.data())
def test_a_changed_byte_of_the_base_is_noticed(record, data):
    saved = encode(record)
    text = bytearray(saved.base.encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    with pytest.raises(DamagedRecordError):
        decode(saved._replace(base=text.decode("latin-1")))


def test_a_database_of_schema_1_is_taken_over_and_can_be_taken_back(tmp_path):
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as database:
        database.executescript((FIXTURES / "state.sql").read_text())
    (old,) = sqlite3.connect(path).execute("SELECT record FROM device").fetchone()
    state = StateFile(path)
    record = state.load()
    assert json.loads(encode(record).base) == json.loads(old)
    state.save(msgspec.structs.replace(record, counter=record.counter + 1, recall=Recall(stopped=True)))
    state.close()
    with sqlite3.connect(path) as database:  # as an agent of schema 1 does it
        (text,) = database.execute("SELECT record FROM device").fetchone()
        older = msgspec.structs.replace(msgspec.json.decode(text, type=BaseRecord), status="safe-mode")
        database.execute("UPDATE device SET record = ?", (msgspec.json.encode(older).decode(),))
    back = read_record(path)
    assert (back.status, back.counter, back.recall) == ("safe-mode", record.counter + 1, Recall(stopped=True))
    assert SCHEMA == 2
