# SPDX-License-Identifier: Apache-2.0
"""A device's disk as agents of other schemas left it: this agent starts on it, goes on, and nothing is lost."""

import contextlib
import importlib.util
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import msgspec
import pytest

from device_agent.adapters.identity.check_in import _read_memory
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.storage.holds import HoldFolder
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.slots import SlotFolder
from device_agent.adapters.storage.state_file import StateFile, read_record
from device_agent.adapters.verification.trust_memory_file import TrustMemoryFile
from device_agent.core.life.record_schema import SCHEMA, encode, to_base
from device_agent.core.orders.trust_memory import recall_of
from device_agent.launcher import read_record as read_software
from edgefleet.contracts.canonical import sha256_hex

FIXTURES = Path(__file__).parent / "fixtures"
SCRIPT = Path(__file__).parents[2] / "scripts" / "write_schema_fixture.py"
SCHEMAS = (0, 1, 2)
LATER = (SCHEMA + 1, SCHEMA + 2)
AGES = {0: "N-2", 1: "N-1", 2: "N", 3: "N+1", 4: "N+2"}
A, B, C, D, E, F = (letter * 64 for letter in "abcdef")


def unpack(schema, root, put_in=()):
    """Write the data folder of a fixture; ``put_in`` are pairs of texts, the first to be replaced by the second."""
    for name, text in json.loads((FIXTURES / f"schema-{schema}" / "device-folder.json").read_text()).items():
        for old, new in put_in if name != "outbox.db" else ():
            name, text = name.replace(old, new), text.replace(old, new)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".db":
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.executescript(text)
        else:
            path.write_text(text)
    if put_in and schema > 1:
        with contextlib.closing(sqlite3.connect(root / "state.db")) as database, database:
            ((base,),) = database.execute("SELECT record FROM device").fetchall()
            database.execute("UPDATE extension SET base_sha256 = ?", (sha256_hex(base.encode()),))


def write_as_later(root, schema):
    """Go on as an agent of a later schema would that keeps to ADR 8: the base, and all else where we pass over it."""
    with contextlib.closing(sqlite3.connect(root / "state.db")) as database, database:
        ((text,),) = database.execute("SELECT record FROM device").fetchall()
        base = json.loads(text) | {"counter": 8, "order_counter": 8}
        base["progress"]["requests"] = 14
        base = " " + json.dumps(base, separators=(",", ":"))
        later = (schema, sha256_hex(base.encode()), json.dumps({"counter": 8, "moods": ["calm"]}))
        database.execute("UPDATE device SET record = ?", (base,))
        database.execute("INSERT INTO extension VALUES (?, ?, ?)", later)
        database.execute("CREATE TABLE mood (name TEXT) STRICT")
    with contextlib.closing(sqlite3.connect(root / "outbox.db")) as database, database:
        ((epoch,),) = database.execute("SELECT epoch FROM outbox").fetchall()
        event = {"type": "event", "kind": "state-repaired", "cause": "mood-changed"}
        message = {"v": 1, "device": "dev-1", "epoch": epoch, "sequence": 8, "created_at": 1.76e9, "body": event}
        data = json.dumps(message).encode()
        database.execute("INSERT INTO message VALUES (8, ?, NULL, ?)", (len(data), data))
        database.execute("UPDATE outbox SET last_sequence = 8")
        database.execute("CREATE TABLE mood (sequence INTEGER) STRICT")
    for path in (root / "identity" / "device.json", root / "identity" / "check-in.json", root / "holds" / "robot.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "calm"}))
    for path in (root / "slots").glob("*.good"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "calm"}))
    for path in (root / "trust").glob("memory.json*"):
        memory = json.loads(path.read_text().partition("\n")[2]) | {"mood": "calm"}
        memory["roles"]["production-digits"]["recalled"]["moods"] = ["calm"]
        body = json.dumps(memory)
        path.write_text(f"{sha256_hex(body.encode())}\n{body}")


def left(root):
    """Return everything that an agent of now finds on a disk, in words."""
    record = read_record(root / "state.db")
    outbox = OutboxFile(root / "outbox.db", "dev-1", limit_bytes=1 << 20)
    waiting = [message.sequence for message in outbox.after(0, 100)]
    epoch = outbox.epoch
    outbox.close()
    slots = SlotFolder(root / "slots")
    progress = record.progress["digits"]
    found = {
        "status": record.status,
        "counters": (record.counter, record.order_counter),
        "active": [(m.release.version, m.sha256) for m in record.active],
        "previous": [(m.release.version, m.sha256) for m in record.previous],
        "candidate": [(m.release.version, m.sha256, m.policy.trial.requests) for m in record.candidate],
        "progress": (progress.attempts_left, progress.unexplained_left, progress.requests, progress.elapsed_s),
        "quarantine": [entry.bundle_sha256 for entry in record.quarantine],
        "reported": record.reported,
        "waiting": waiting,
        "epoch": len(epoch),
        "committed": (slots.last_committed()[0][0].version, slots.last_committed()[1]),
        "bad": slots.bad(),
    }
    if (root / "identity").exists():
        found["device"] = DataFolder(root).read_identity().device
    if (root / "trust").exists():
        found |= later_parts(root, record)
    return found


def later_parts(root, record):
    memory = TrustMemoryFile(root / "trust").load()
    return {
        "floor": memory.floor,
        "recalled": (record.recall.releases, record.recall.minimum, recall_of(memory) == record.recall),
        "settings": record.settings,
        "instance": _read_memory(DataFolder(root)).instance,
        "hold": HoldFolder(root / "holds").reason(0.0),
        "software": read_software(root / "software").active,
    }


WRITTEN = {
    "status": "trial",
    "counters": (7, 7),
    "active": [("1.0.0", A)],
    "previous": [("0.9.0", C)],
    "candidate": [("2.0.0", B, 20)],
    "progress": (2, 4, 12, 90.5),
    "quarantine": [D],
    "reported": ("6:quarantined",),
    "waiting": [3, 4, 5, 6, 7],
    "epoch": 16,
    "committed": ("1.0.0", 5),
    "bad": (D,),
}
IDENTIFIED = {"device": "dev-1"}
SINCE_2 = {
    "floor": {"digits": "0.9.0"},
    "recalled": ((F,), {"digits": "0.9.0"}, True),
    "settings": "poll_s = 600.0\n",
    "instance": "8.aa",
    "hold": "robot: it moves",
    "software": "1" * 64,
}
EXPECTED = {0: WRITTEN, 1: WRITTEN | IDENTIFIED, 2: WRITTEN | IDENTIFIED | SINCE_2}
LATER_CHANGES = {"counters": (8, 8), "progress": (2, 4, 14, 90.5), "waiting": [3, 4, 5, 6, 7, 8]}


def say(schema, found, expected):
    kept = sum(found.get(name) == value for name, value in expected.items())
    table = f"{AGES[schema]:4} schema {schema}: {kept} of {len(expected)} facts kept ({', '.join(expected)})"
    sys.stdout.write(f"{table}\n")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_an_older_agent_wrote_is_read_whole_and_saved_without_a_loss(tmp_path, schema):
    unpack(schema, tmp_path)
    found = left(tmp_path)
    say(schema, found, EXPECTED[schema])
    assert found == EXPECTED[schema]
    state = StateFile(tmp_path / "state.db")
    state.save(state.load())
    state.close()
    assert left(tmp_path) == found


@pytest.mark.parametrize("schema", LATER)
def test_what_a_later_agent_wrote_is_gone_on_with_and_its_own_is_left_to_it(tmp_path, schema):
    unpack(SCHEMA, tmp_path)
    write_as_later(tmp_path, schema)
    found, expected = left(tmp_path), EXPECTED[SCHEMA] | LATER_CHANGES
    say(schema, found, expected)
    assert found == expected

    state = StateFile(tmp_path / "state.db")
    record = msgspec.structs.replace(state.load(), clean_stop=True, changed_at=5.0)
    state.save(record)
    state.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as database:
        ((base,),) = database.execute("SELECT record FROM device").fetchall()
        rows = {row[0]: row[1:] for row in database.execute("SELECT schema, base_sha256, record FROM extension")}
    assert msgspec.json.decode(base, type=type(to_base(record))) == to_base(record)
    assert json.loads(rows[schema][1]) == {"counter": 8, "moods": ["calm"]}
    assert rows[schema][0] != rows[SCHEMA][0] == encode(record).base_sha256  # so the later one sees who wrote last
    assert left(tmp_path) == expected


@pytest.mark.parametrize("schema", SCHEMAS)
def test_this_agent_starts_on_it_in_the_middle_of_the_trial_and_commits(
    device, device_side, agent_bundles, digits_live, agent_tools, schema
):
    device_side.release(agent_bundles.v1)
    target = device_side.release(agent_bundles.v5, agent_tools.quick_policy(requests=20))
    device_side.assign(target, counter=7)
    device.agent.stop()
    folder = device.folder
    for path in (folder.state, folder.outbox):
        path.unlink()
    shutil.rmtree(folder.slots)
    put_in = [(C, agent_bundles.v3.sha256), (A, agent_bundles.v1.sha256), (B, agent_bundles.v5.sha256)]
    own = {name: (folder.root / "identity" / name).read_text() for name in ("device.json", "device.json.copy")}
    unpack(schema, folder.root, [*put_in, (E, agent_tools.COMPAT), ("2.0.0", "5.0.0")])
    for name, text in own.items():  # the server of this test, not the fixture's
        (folder.root / "identity" / name).write_text(text)
    shutil.rmtree(folder.root / "holds", ignore_errors=True)
    for made in (agent_bundles.v1, agent_bundles.v3, agent_bundles.v5):
        (folder.slots / f"{made.sha256}.bundle").write_bytes(made.data)

    device.start()
    record = device.agent.record
    assert (record.status, record.counter, record.progress["digits"].requests) == ("trial", 7, 12)
    device.until_running(agent_bundles.v5, digits_live[0])
    record = device.agent.record
    assert [member.sha256 for member in record.previous] == [agent_bundles.v1.sha256]
    assert [entry.bundle_sha256 for entry in record.quarantine] == [D]
    messages = device.agent.ports.outbox.after(0, 1000)
    assert [message.sequence for message in messages] == list(range(3, 3 + len(messages)))
    assert [message.body.detail for message in messages[:5]] == ["3", "4", "5", "6", "7"]
    assert ("state-repaired", "damaged") not in device.stories()
    assert not list(folder.root.glob("*.damaged*"))


def test_who_changes_what_lies_on_disks_raises_the_schema_and_writes_a_fixture(tmp_path):
    folders = sorted(int(path.name.removeprefix("schema-")) for path in FIXTURES.glob("schema-*"))
    assert folders == list(range(SCHEMA + 1)), "run scripts/write_schema_fixture.py"
    spec = importlib.util.spec_from_file_location("write_schema_fixture", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write_fixture(tmp_path)
    recorded = json.loads((FIXTURES / f"schema-{SCHEMA}" / "shapes.json").read_text())
    assert json.loads((tmp_path / "shapes.json").read_text()) == recorded, (
        f"what schema {SCHEMA} lays down is another than its fixture says: an agent of before cannot read it. "
        "Raise SCHEMA in device_agent/core/life/record_schema.py and run scripts/write_schema_fixture.py"
    )
    written = set(json.loads((tmp_path / "device-folder.json").read_text()))
    assert written == set(json.loads((FIXTURES / f"schema-{SCHEMA}" / "device-folder.json").read_text()))
