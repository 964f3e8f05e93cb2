# SPDX-License-Identifier: Apache-2.0
"""Applications, brokers, servers and disks that mean harm: the agent refuses, and goes on."""

import contextlib
import gzip
import itertools
import random
import socket
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.state_file import StateFile
from device_agent.adapters.verification.download import BundleDownloads
from device_agent.adapters.verification.trust import TufTrust
from device_agent.cli import main
from device_agent.client import InferenceClient, RawTensor
from device_agent.core.evidence.ledger import PART_ENTRIES, merge, parted
from device_agent.core.life.record import DeviceRecord
from device_agent.core.orders.release_orders import TargetFile
from device_agent.errors import DamagedStateError
from device_agent.inference_protocol import FeedbackRequest, InferRequest, Tensor, encode_request, frame
from device_agent.reporting import Reporter
from device_agent.worker.main import SESSION_LIMIT
from edgefleet.contracts.errors import EdgeFleetError, InputError, MessageError, StorageError, UnreachableError
from edgefleet.contracts.messages import (
    Confusion,
    Event,
    Message,
    ModelWindow,
    RunningRelease,
    SparseCounts,
    Watermark,
    decode_message,
    encode_message,
)

RELEASE = RunningRelease(name="digits", version="1.0.0", bundle_sha256="a" * 64)
EVENT = Event(kind="verified", cause="downloaded", detail="x" * 500)
#: Ends a test that fails.
LIMIT_S = 120.0


def connected(path):
    application = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    application.connect(str(path))
    application.settimeout(LIMIT_S)
    return application


def answered(picture, path):
    with InferenceClient(path, timeout_s=LIMIT_S) as client:
        return client.infer(picture)


def test_no_application_ends_or_starves_the_worker_of_the_others(
    agent_process, device_side, enrolled, agent_tools, agent_bundles, digits_live
):
    device_side.assign(device_side.release(agent_bundles.v1))
    process, ready = agent_process("--poll", "0.1")
    path, picture = ready["socket"], digits_live[0][0]
    agent_tools.wait_until(lambda: answered(picture, path).status == "ok", "a model that answers")
    worker = agent_tools.worker_of(process.pid)
    given = answered(picture, path)
    hostile = [
        encode_request(FeedbackRequest(given.request_id, "9" * 5000)),
        encode_request(FeedbackRequest(given.request_id, "4000000000")),
        encode_request(InferRequest((Tensor("float32", (0, 2**32 - 1, 2**32 - 1, 2**32 - 1), b""),))),
        encode_request(InferRequest((Tensor("float32", (0,), b""),))),
        encode_request(InferRequest(())),
        encode_request(InferRequest((Tensor("bool", (8, 8, 1), b"\x07" * 64),) * 64)),
        random.Random(1).randbytes(300),
        b"",
    ]
    for body in hostile:
        with connected(path) as application:
            application.sendall(frame(body))
            assert application.recv(1 << 16)
    with connected(path) as application:  # hangs up in the middle of an answer
        application.sendall(frame(encode_request(InferRequest((Tensor("float32", (8, 8, 1), bytes(256)),)))) * 50)
    with contextlib.ExitStack() as held:
        deaf = held.enter_context(connected(path))  # asks without end, and reads nothing
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(frame(b"\x03\x01\x00\x00") * 1000)
        crowd = [held.enter_context(connected(path)) for _ in range(SESSION_LIMIT + 80)]
        for one in crowd[::2]:
            with contextlib.suppress(OSError):  # it was sent away for a later one
                one.sendall(struct.pack("<I", 1 << 20) + b"half a request")
        assert answered(picture, path).status == "ok"
    assert answered(picture, path)[2:5] == given[2:5]
    assert agent_tools.worker_of(process.pid) == worker


@pytest.mark.parametrize(
    ("request_id", "label", "error"),
    [(-1, "3", InputError), (1 << 64, "3", InputError), (1, "x" * 70_000, InputError), (1, "\udcff", InputError)],
)
def test_a_client_refuses_what_no_frame_can_carry(tmp_path, request_id, label, error):
    with pytest.raises(error), InferenceClient(tmp_path / "none.sock") as client:
        client.feedback(request_id, label)
    with pytest.raises(InputError), InferenceClient(tmp_path / "none.sock") as client:
        client.infer(RawTensor(bytes(65 << 20), "uint8", (65 << 20,)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["feedback", "--data", "x", "minus", "3"], "argument request_id: 'minus' is no request id"),
        (["feedback", "--data", "x", str(1 << 64), "3"], f"argument request_id: '{1 << 64}' is no request id"),
        (["run", "--data", "x", "--poll", "soon"], "argument --poll: 'soon' is not a number greater than zero"),
        (
            ["run", "--data", "x", "--time-scale", "nan"],
            "argument --time-scale: 'nan' is not a number greater than zero",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence_and_status_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {sentence}"


columns = st.dictionaries(st.integers(0, 20_000), st.integers(1, 1 << 40), max_size=30)
pairs = st.dictionaries(st.tuples(st.integers(0, 99), st.integers(0, 99)), st.integers(1, 1 << 40), max_size=30)


@given(columns, pairs, st.integers(1, 7))
def test_the_parts_of_a_window_are_short_and_add_up_to_it(classes, labelled, limit):
    window = ModelWindow(
        release=RELEASE,
        role="trial",
        requests=7,
        failed=1,
        compared=5,
        disagreed=2,
        classes=SparseCounts(bins=tuple(sorted(classes)), counts=tuple(classes[b] for b in sorted(classes))),
        labelled=Confusion(
            actual=tuple(a for a, _ in sorted(labelled)),
            predicted=tuple(p for _, p in sorted(labelled)),
            counts=tuple(labelled[pair] for pair in sorted(labelled)),
        ),
    )
    parts = parted(window, limit)
    assert merge(parts) == (window,)
    assert max(max(len(part.classes.bins), len(part.labelled.counts)) for part in parts) <= limit


class Messenger:
    """A broker's side that takes all and says nothing."""

    connection = 1

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Clock:
    def wall(self):
        return 100.0

    def monotonic(self):
        return 100.0


@pytest.fixture
def box(tmp_path):
    return OutboxFile(tmp_path / "outbox.db", "dev-1", limit_bytes=4 << 20)


def test_counts_of_many_classes_leave_in_messages_that_a_server_takes(box):
    reporter = Reporter(box, Messenger(), Clock())
    numbers = tuple(range(10_000))
    window = ModelWindow(
        release=RELEASE, role="active", classes=SparseCounts(bins=numbers, counts=tuple(n + 1 for n in numbers))
    )
    reporter.count((window,))
    reporter.telemetry(1)
    sent = [decode_message(encode_message(message), Message).body for message in box.after(0, 100)]
    assert len(sent) == len(numbers) / PART_ENTRIES
    assert merge(part for body in sent for part in body.models) == (window,)


def test_what_no_server_would_take_never_enters_the_outbox(box):
    with pytest.raises(MessageError):
        box.append(Event(kind="verified", cause="NOT a cause"), created_at=1.0)
    reporter = Reporter(box, Messenger(), Clock())
    reporter.event(Event(kind="verified", cause="NOT a cause"))
    reporter.event(EVENT)
    assert [(message.sequence, message.body) for message in box.after(0, 10)] == [(1, EVENT)]


@pytest.mark.parametrize("sequence", [2, 1 << 62, 1 << 200])
def test_a_watermark_beyond_the_last_message_lets_nothing_go(box, sequence):
    box.append(EVENT, created_at=1.0)
    Reporter(box, Messenger(), Clock()).stored(Watermark(v=1, epoch=box.epoch, sequence=sequence))
    assert box.depth() == 1


def damaged(data, chance):
    """One page overwritten, some bytes changed, or the end cut off."""
    page = chance.randrange(len(data) // 4096) * 4096
    changed = bytearray(data)
    kind = chance.randrange(3)
    if kind == 0:
        changed[page : page + 4096] = chance.randbytes(4096)
    elif kind == 1:
        for _ in range(3):
            changed[page + chance.choice((chance.randrange(110), chance.randrange(4096)))] = chance.randrange(256)
    else:
        del changed[chance.randrange(len(data)) :]
    return bytes(changed)


def checkpointed(path, write):
    write().close()
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(16))
def test_an_outbox_with_a_damaged_page_is_read_or_set_aside_and_takes_messages(tmp_path, seed):
    path = tmp_path / "outbox.db"

    def fill():
        box = OutboxFile(path, "dev-1", limit_bytes=1 << 20)
        for _ in range(30):
            box.append(EVENT, created_at=1.0)
        return box

    path.write_bytes(damaged(checkpointed(path, fill), random.Random(seed)))
    box = OutboxFile(path, "dev-1", limit_bytes=1 << 20)
    message = box.append(EVENT, created_at=2.0)
    assert box.after(0, 100)[-1].body == message.body
    box.acknowledge(box.epoch, message.sequence)
    assert box.depth() == 0


def test_an_outbox_that_is_damaged_while_it_is_used_is_replaced(tmp_path, box):
    box.append(EVENT, created_at=1.0)
    epoch = box.epoch
    box._database.execute("PRAGMA writable_schema = ON")
    box._database.execute("DELETE FROM sqlite_schema WHERE name = 'message'")
    box._database.commit()
    box._database.execute("PRAGMA writable_schema = RESET")
    with pytest.raises(StorageError):
        box.append(EVENT, created_at=2.0)
    assert box.append(EVENT, created_at=2.0).sequence == 1
    assert box.epoch != epoch
    assert (tmp_path / "outbox.db.damaged-1").exists()


@pytest.mark.parametrize("seed", range(12))
def test_a_state_with_a_damaged_page_is_read_or_can_be_set_aside(tmp_path, seed):
    path = tmp_path / "state.db"
    record = DeviceRecord(counter=7, reported=("x" * 400,) * 9)

    def fill():
        state = StateFile(path)
        state.save(record)
        return state

    path.write_bytes(damaged(checkpointed(path, fill), random.Random(seed)))
    state = StateFile(path)
    try:
        state.load()
    except DamagedStateError:
        state.set_aside()
        assert state.load() is None
    state.save(record)
    assert state.load() == record


def endless(handler, status):
    handler.send_response(status)
    handler.send_header("Content-Length", str(10**12))
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def bomb(handler):
    body = gzip.compress(bytes(100 << 20))
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def redirect(handler):
    handler.send_response(302)
    handler.send_header("Location", handler.server_side.url + handler.path)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    "answer",
    [lambda handler: endless(handler, 200), lambda handler: endless(handler, 404), bomb, redirect],
    ids=["endless", "endless-error", "gzip-bomb", "redirects-to-itself"],
)
def test_a_hostile_server_costs_one_failed_attempt(device_side, enrolled, answer):
    device_side._server.RequestHandlerClass.do_GET = answer
    connection = ServerConnection(device_side.url, ca=enrolled.ca, certificate=enrolled.certificate, key=enrolled.key)
    identity = enrolled.read_identity()
    with pytest.raises(EdgeFleetError):
        TufTrust(enrolled, identity, connection).check(0)
    downloads = BundleDownloads(enrolled.downloads, connection, reserve_bytes=0)
    target = TargetFile("digits/1.0.0/x.bundle", "b" * 64, 200_000)
    with pytest.raises(EdgeFleetError):
        downloads.fetch(target, lambda: False)
    assert sum(file.stat().st_size for file in enrolled.downloads.iterdir()) <= target.size_bytes + 1


def trickle(handler):
    """Announce a bundle's whole length, and send it byte by byte."""
    data = handler.server_side.find(handler.path)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        for at in range(len(data)):
            handler.wfile.write(data[at : at + 1])
            handler.wfile.flush()


def test_a_server_that_trickles_a_bundle_is_left_and_the_next_one_goes_on_from_there(
    device_side, enrolled, agent_bundles, monkeypatch
):
    made = agent_bundles.v1
    listed = device_side.release(made)
    folder, _, name = listed.path.rpartition("/")
    target = TargetFile(f"{folder}/{made.sha256}.{name}", made.sha256, listed.length)
    ticks = itertools.count(0.0, 10.0)
    connection = ServerConnection(device_side.url, ca=enrolled.ca, certificate=enrolled.certificate, key=enrolled.key)
    downloads = BundleDownloads(enrolled.downloads, connection, reserve_bytes=0, monotonic=lambda: next(ticks))
    handler = device_side._server.RequestHandlerClass
    honest = handler.do_GET
    monkeypatch.setattr(handler, "do_GET", trickle)
    with pytest.raises(UnreachableError) as raised:
        downloads.fetch(target, lambda: False)
    assert raised.value.message == "the download comes with less than 200 bytes a second"
    (part,) = enrolled.downloads.iterdir()
    came = part.stat().st_size
    assert 0 < came < target.size_bytes
    monkeypatch.setattr(handler, "do_GET", honest)
    assert downloads.fetch(target, lambda: False).read_bytes() == made.data
    assert device_side.requests[-1] == (f"/image/targets/{target.path}", f"bytes={came}-")


def test_a_flood_of_hints_is_no_flood_of_requests(enrolled, device_side, agent_tools):
    from concurrent.futures import ThreadPoolExecutor

    from device_agent.adapters.network.https import ServerConnection as Connection
    from device_agent.core.timers import Timers
    from device_agent.polling import Polling

    now = [0.0]
    checks = []
    connection = Connection(device_side.url, ca=enrolled.ca, certificate=enrolled.certificate, key=enrolled.key)
    trust = TufTrust(enrolled, enrolled.read_identity(), connection)
    ports = msgspec.defstruct("Ports", ["clock", "executor", "repositories", "random"])(
        type("C", (), {"monotonic": staticmethod(lambda: now[0])})(),
        ThreadPoolExecutor(1),
        type("T", (), {"check": staticmethod(lambda seen: checks.append(now[0]) or trust.check(seen))})(),
        lambda: 0.5,
    )
    polling = Polling(ports, Timers(), poll_s=300.0, wake=lambda: None)
    for _ in range(100):
        polling.soon()
        polling.start_if_due(0)
        if polling.checking:
            agent_tools.wait_until(polling.finish, "an order")
        now[0] += 0.02
    assert len(checks) == pytest.approx(4, abs=1)
    assert np.diff(checks).min() >= 0.5
