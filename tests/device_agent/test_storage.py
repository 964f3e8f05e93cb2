# SPDX-License-Identifier: Apache-2.0
"""Slots, state and outbox: what is promised durable is there after kill -9, full disks and damage."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.adapters.storage.durable import write_durably
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.slots import SlotFolder
from device_agent.adapters.storage.state_file import StateFile, read_record
from device_agent.core.life.record import DeviceRecord
from device_agent.core.life.record_schema import encode
from device_agent.errors import DamagedStateError
from edgefleet.contracts.errors import BundleError, StorageError
from edgefleet.contracts.messages import Event, Gap, RunningRelease

EVENT = Event(kind="verified", cause="downloaded", detail="x" * 300)


def release(data: bytes, version: str = "1.0.0") -> RunningRelease:
    return RunningRelease(name="digits", version=version, bundle_sha256=hashlib.sha256(data).hexdigest())


def stored(folder: SlotFolder, tmp_path: Path, data: bytes) -> RunningRelease:
    part = tmp_path / "bundle.part"
    part.write_bytes(data)
    folder.adopt(part, release(data).bundle_sha256)
    return release(data)


def test_a_slot_takes_only_the_bytes_that_it_is_named_for(tmp_path):
    slots = SlotFolder(tmp_path / "slots")
    part = tmp_path / "bundle.part"
    part.write_bytes(b"other")
    wanted = release(b"wanted").bundle_sha256
    with pytest.raises(BundleError) as raised:
        slots.adopt(part, wanted)
    found = hashlib.sha256(b"other").hexdigest()
    assert raised.value.message == f"'bundle.part' has the SHA-256 {found[:12]}…, expected {wanted[:12]}…"
    assert not slots.intact(wanted)


def test_a_file_where_the_slots_belong_is_named(tmp_path):
    (tmp_path / "slots").write_bytes(b"")
    with pytest.raises(StorageError) as raised:
        SlotFolder(tmp_path / "slots")
    assert raised.value.message == f"cannot make the folder '{tmp_path}/slots': File exists"


def test_the_last_good_slot_is_the_newest_mark_that_is_intact_and_not_bad(tmp_path):
    slots = SlotFolder(tmp_path / "slots")
    oldest, damaged, bad = (stored(slots, tmp_path, data) for data in (b"oldest", b"damaged", b"bad"))
    for moment, one in enumerate((oldest, damaged, bad)):
        slots.mark_good(one, counter=moment, committed_at=float(moment))
    slots.path(damaged.bundle_sha256).write_bytes(b"flipped")
    slots.mark_bad(bad.bundle_sha256)
    (tmp_path / "slots" / f"{'f' * 64}.good").write_bytes(b"not json")
    assert slots.last_good() == ((oldest,), 0)
    assert slots.last_committed() == ((damaged,), 1)
    assert slots.bad() == (bad.bundle_sha256,)


def test_pruning_keeps_what_is_named_and_every_bad_mark(tmp_path):
    slots = SlotFolder(tmp_path / "slots")
    kept, gone = stored(slots, tmp_path, b"kept"), stored(slots, tmp_path, b"gone")
    slots.mark_bad(gone.bundle_sha256)
    slots.keep_only([kept.bundle_sha256])
    assert slots.intact(kept.bundle_sha256)
    assert not slots.path(gone.bundle_sha256).exists()
    assert slots.bad() == (gone.bundle_sha256,)


def test_a_record_is_replaced_whole_and_read_beside_the_agent(tmp_path):
    state = StateFile(tmp_path / "state.db")
    assert state.load() is None
    for counter in range(3):
        state.save(DeviceRecord(counter=counter))
    assert read_record(tmp_path / "state.db") == state.load() == DeviceRecord(counter=2)


def test_a_record_that_is_read_while_the_agent_saves_others_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "state.db"
    StateFile(path).save(DeviceRecord(counter=1))
    connect, statements = sqlite3.connect, []

    def save_between(statement):
        statements.append(statement)
        following = encode(DeviceRecord(counter=1 + len(statements)))
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(connect(path, timeout=0)) as writer,
            writer,
        ):
            writer.execute("UPDATE device SET record = ?", (following.base,))
            extension = (following.base_sha256, following.extension)
            writer.execute("UPDATE extension SET base_sha256 = ?, record = ?", extension)

    def connect_beside_a_writer(*arguments, **named):
        database = connect(*arguments, **named)
        database.set_trace_callback(save_between)
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_beside_a_writer)
    read = read_record(path)
    assert read is not None
    assert read == DeviceRecord(counter=read.counter)
    assert len(statements) >= 3


@pytest.mark.parametrize("damage", ["garbage", "schema"])
def test_an_unreadable_state_is_named_and_set_aside(tmp_path, damage):
    path = tmp_path / "state.db"
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 100)
    else:
        StateFile(path).save(DeviceRecord())
        with sqlite3.connect(path) as database:
            database.execute("UPDATE device SET record = '{\"counter\": -1}'")
        database.close()
    state = StateFile(path)
    with pytest.raises(DamagedStateError):
        state.load()
    assert state.set_aside().name == "state.db.damaged-1"
    assert state.load() is None


def test_messages_stay_until_a_watermark_of_their_epoch(tmp_path):
    box = OutboxFile(tmp_path / "outbox.db", "dev-1", limit_bytes=1 << 20)
    for _ in range(5):
        box.append(EVENT, created_at=1.0)
    box.acknowledge("0" * 16, 5)
    assert [message.sequence for message in box.after(0, 10)] == [1, 2, 3, 4, 5]
    box.acknowledge(box.epoch, 3)
    epoch = box.epoch
    box.close()
    again = OutboxFile(tmp_path / "outbox.db", "dev-1", limit_bytes=1 << 20)
    assert again.epoch == epoch
    assert again.append(EVENT, created_at=1.0).sequence == 6
    assert [message.sequence for message in again.after(4, 1)] == [5]
    assert again.depth() == 3


def test_an_outbox_made_anew_has_another_epoch(tmp_path):
    boxes = [OutboxFile(tmp_path / name, "dev-1", limit_bytes=1 << 20) for name in ("a.db", "b.db")]
    assert boxes[0].epoch != boxes[1].epoch
    (tmp_path / "c.db").write_bytes(b"no database at all" * 100)
    assert OutboxFile(tmp_path / "c.db", "dev-1", limit_bytes=1 << 20).depth() == 0
    assert (tmp_path / "c.db.damaged-1").exists()


@settings(max_examples=15, deadline=None)
@given(acknowledged=st.lists(st.integers(0, 60), max_size=3), messages=st.integers(1, 120))
def test_a_watermark_can_always_pass_evicted_messages(tmp_path_factory, acknowledged, messages):
    """Whatever is evicted: the stored messages and the ranges of the gaps together leave no hole."""
    box = OutboxFile(tmp_path_factory.mktemp("outbox") / "outbox.db", "dev-1", limit_bytes=5000)
    server: set[int] = set()
    for number in range(messages):
        box.append(EVENT, created_at=1.0)
        if number in acknowledged:
            server |= set(range(1, number))
            box.acknowledge(box.epoch, number - 1)
    waiting = box.after(0, 10_000)
    for message in waiting:
        server.add(message.sequence)
        if isinstance(message.body, Gap):
            server |= set(range(message.body.first, message.body.last + 1))
    assert server >= set(range(1, waiting[-1].sequence + 1))
    assert [m.sequence for m in box.gaps()] == [m.sequence for m in waiting if isinstance(m.body, Gap)]
    assert sum(len(m.body.detail) for m in waiting if isinstance(m.body, Event)) <= 5000
    box.close()


STEPS = """
import os, sys
from pathlib import Path
from device_agent.adapters.storage.outbox_file import OutboxFile
from edgefleet.contracts.messages import Event
box = OutboxFile(Path(sys.argv[1]), "dev-1", limit_bytes=1 << 20)
for step in ("/step/append", "/step/acknowledge", "/step/append-again"):
    os.access(step, os.F_OK)
    for sequence in range(1, 6):
        if step == "/step/acknowledge":
            box.acknowledge(box.epoch, sequence)
        else:
            box.append(Event(kind="verified", cause="downloaded"), created_at=1.0)
os.access("/step/end", os.F_OK)
"""


def test_each_message_is_waited_for_until_it_is_on_the_disk_and_no_acknowledgement_is(tmp_path):
    """As the kernel sees it: an acknowledgement that a power cut undoes only sends messages again."""
    strace = shutil.which("strace")
    traced = [strace or "", "-f", "-e", "trace=fsync,fdatasync,access", "-o", str(tmp_path / "calls")]
    command = [sys.executable, "-c", STEPS, str(tmp_path / "outbox.db")]
    if strace is None or subprocess.run([*traced, *command], capture_output=True).returncode != 0:
        pytest.skip("strace is not installed, or may not trace here")
    syncs: dict[str, int] = {}
    step = ""
    for line in (tmp_path / "calls").read_text().splitlines():
        if named := re.search(r'access\("/step/([a-z-]+)"', line):
            step = named[1]
        elif "sync(" in line:
            syncs[step] = syncs.get(step, 0) + 1
    assert syncs["append"] >= 5
    assert syncs["append-again"] >= 5
    assert "acknowledge" not in syncs


WRITER = """
import sys
from pathlib import Path
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.slots import SlotFolder
from device_agent.adapters.storage.state_file import StateFile
from device_agent.core.life.record import DeviceRecord
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.messages import Event
root = Path(sys.argv[1])
box, state = OutboxFile(root / "outbox.db", "dev-1", limit_bytes=1 << 20), StateFile(root / "state.db")
slots = SlotFolder(root / "slots")
counter = (state.load() or DeviceRecord()).counter
while True:
    counter += 1
    state.save(DeviceRecord(counter=counter))
    message = box.append(Event(kind="verified", cause="downloaded"), created_at=1.0)
    data = str(counter).encode()
    (root / "next.part").write_bytes(data)
    slots.adopt(root / "next.part", sha256_hex(data))
    print(counter, message.sequence, sha256_hex(data), flush=True)
"""


def test_what_was_said_to_be_stored_is_there_after_kill_9_at_random_moments(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    epoch = None
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        lines = [writer.stdout.readline() for _ in range(draw.randrange(1, 30))]
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        counter, sequence, sha256 = next(line.split() for line in reversed(lines) if line.endswith("\n"))
        box, state = OutboxFile(tmp_path / "outbox.db", "dev-1", limit_bytes=1 << 20), StateFile(tmp_path / "state.db")
        assert state.load().counter >= int(counter), f"seed {seed}"
        kept = [message.sequence for message in box.after(0, 1_000_000)]
        assert kept == list(range(1, len(kept) + 1)), f"seed {seed}"
        assert len(kept) >= int(sequence), f"seed {seed}"
        assert all(
            path.stem == hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "slots").glob("*.bundle")
        )
        assert (tmp_path / "slots" / f"{sha256}.bundle").exists(), f"seed {seed}"
        assert epoch in (None, box.epoch)
        epoch = box.epoch
        box.close()
        state.close()


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB, where root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"\0" * 512):
            pass
    os.close(descriptor)


def append_forever(box):
    while True:
        box.append(EVENT, created_at=1.0)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tiny_disk, tmp_path):
    slots, state = SlotFolder(tiny_disk / "slots"), StateFile(tiny_disk / "state.db")
    box = OutboxFile(tiny_disk / "outbox.db", "dev-1", limit_bytes=1 << 20)
    state.save(DeviceRecord(counter=1))
    box.append(EVENT, created_at=1.0)
    write_durably(tiny_disk / "note", b"before")
    filler = tiny_disk / "filler"
    fill(filler)
    with pytest.raises(StorageError):
        append_forever(box)
    with pytest.raises(StorageError) as raised:
        slots.mark_good(release(b"x"), counter=1, committed_at=1.0)
    name = f"{release(b'x').bundle_sha256}.good"
    assert raised.value.message == f"cannot write the slot's note '{name}': No space left on device"
    with pytest.raises(OSError, match="No space left"):
        write_durably(tiny_disk / "note", b"after" * 1000)
    assert (tiny_disk / "note").read_bytes() == b"before"
    assert sorted(path.name for path in tiny_disk.iterdir() if path.name.startswith(".")) == []
    filler.unlink()
    assert state.load().counter == 1
    first = [message.sequence for message in box.after(0, 1000)]
    assert first == list(range(1, len(first) + 1))
    assert box.append(EVENT, created_at=1.0).sequence == len(first) + 1


def test_slots_of_a_read_only_disk_are_kept_with_one_sentence(tiny_disk, tmp_path):
    slots = SlotFolder(tiny_disk / "slots")
    gone = stored(slots, tiny_disk, b"gone")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(StorageError) as raised:
        slots.keep_only([])
    assert raised.value.message == "cannot delete the bundles that are not needed any more: Read-only file system"
    assert slots.intact(gone.bundle_sha256)


def test_a_restart_on_a_full_disk_finds_the_record_and_the_outbox_takes_messages_when_there_is_room(tiny_disk):
    state, box = StateFile(tiny_disk / "state.db"), OutboxFile(tiny_disk / "outbox.db", "dev-1", limit_bytes=1 << 20)
    state.save(DeviceRecord(counter=7))
    box.append(EVENT, created_at=1.0)
    epoch = box.epoch
    state.close()
    box.close()
    fill(tiny_disk / "filler")
    state, box = StateFile(tiny_disk / "state.db"), OutboxFile(tiny_disk / "outbox.db", "dev-1", limit_bytes=1 << 20)
    assert state.load() == DeviceRecord(counter=7)
    assert box.epoch == ""
    for use in (lambda: state.save(DeviceRecord(counter=8)), lambda: box.append(EVENT, created_at=1.0), box.gaps):
        with pytest.raises(StorageError):
            use()
    (tiny_disk / "filler").unlink()
    state.save(DeviceRecord(counter=8))
    assert state.load() == DeviceRecord(counter=8)
    assert (box.append(EVENT, created_at=1.0).sequence, box.epoch) == (2, epoch)


def test_a_record_with_a_log_beside_it_is_never_read_without_the_log(tiny_disk):
    """As an older agent leaves it: its log is beside the file until it closes it."""
    state = StateFile(tiny_disk / "state.db")
    state.save(DeviceRecord(counter=7))
    state.close()
    with contextlib.closing(sqlite3.connect(tiny_disk / "state.db")) as older:
        older.execute("PRAGMA journal_mode = WAL")
        older.execute("UPDATE device SET record = '{}'")
        older.commit()
        saved = {name: (tiny_disk / name).read_bytes() for name in ("state.db", "state.db-wal")}
    for name, data in saved.items():
        (tiny_disk / name).write_bytes(data)
    fill(tiny_disk / "filler")
    with pytest.raises(StorageError, match=r"cannot read the device's state in 'state\.db'"):
        StateFile(tiny_disk / "state.db").load()
