# SPDX-License-Identifier: Apache-2.0
"""The worker as applications see it: shared memory, several models, swaps, declared interfaces, hostile neighbours."""

import contextlib
import mmap
import os
import resource
import socket
import struct
import threading

import msgspec
import numpy as np
import pytest

from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient, RawTensor
from device_agent.core.serving import (
    Collected,
    Declared,
    LoadFailed,
    ModelRef,
    PlannedModel,
    Serving,
    ServingPlan,
)
from device_agent.inference_protocol import (
    FRAME_LIMIT_BYTES,
    InferRequest,
    RingRequest,
    ShareRequest,
    Tensor,
    decode_answer,
    encode_request,
    frame,
)
from device_agent.shared_memory import AREA_LIMIT_BYTES, BY_SOCKET, LENGTH, REQUESTED, attach
from device_agent.worker.main import BUFFER_LIMIT_BYTES, SESSION_LIMIT, sessions_that_fit
from device_agent.worker.reception import SHARED_LIMIT_BYTES
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.interface import NeededInterface, NeededTensor
from edgefleet.contracts.messages import RunningRelease

#: Ends a test that fails.
LIMIT_S = 120.0


class Bench:
    """A worker process without a supervisor, commanded by the test."""

    def __init__(self, folder, tools):
        self.path = folder / "worker.sock"
        self.folder = folder
        self.tools = tools
        self.listener = listen(self.path)
        self.process = WorkerProcess(self.listener, readable=[folder])
        self.process.start()
        self.reports = []
        self.number = 0

    def ref(self, made, name="digits"):
        path = self.folder / f"{made.sha256}.bundle"
        if not path.exists():
            path.write_bytes(made.data)
        return ModelRef(
            path=str(path), release=RunningRelease(name=name, version=made.version, bundle_sha256=made.sha256)
        )

    def serve(self, *models, swap="resident"):
        self.ask(*models, swap=swap)
        return self.until(lambda report: isinstance(report, Serving | LoadFailed) and report.number == self.number)

    def ask(self, *models, swap="resident"):
        self.number += 1
        planned = tuple(PlannedModel(primary=ref) for ref in models)
        self.process.serve(ServingPlan(number=self.number, models=planned, swap=swap))

    def until(self, wanted):
        def found():
            self.reports += self.process.reports()
            return next((report for report in self.reports if wanted(report)), None)

        return self.tools.wait_until(found, "the worker's report")

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT_S)
        connection.connect(str(self.path))
        return connection

    def close(self):
        self.process.stop()
        self.listener.close()


@pytest.fixture
def bench(tmp_path, agent_tools):
    bench = Bench(tmp_path, agent_tools)
    yield bench
    bench.close()


def _answer(connection):
    head = b""
    while len(head) < 4:
        head += connection.recv(4 - len(head))
    (length,) = struct.unpack("<I", head)
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return decode_answer(body)


def _share(connection, size_bytes=65536):
    connection.sendall(frame(encode_request(ShareRequest(size_bytes, size_bytes))))
    data, descriptors, _, _ = socket.recv_fds(connection, 4, 1, socket.MSG_WAITALL)
    (length,) = struct.unpack("<I", data)
    assert decode_answer(connection.recv(length, socket.MSG_WAITALL)).status == "ok"
    return descriptors[0]


def _body(picture, deadline_us=0):
    return encode_request(InferRequest((Tensor("float32", picture.shape, picture.tobytes()),), deadline_us))


def test_answers_through_shared_memory_are_those_through_the_socket(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    with (
        InferenceClient(bench.path, timeout_s=LIMIT_S) as quick,
        InferenceClient(bench.path, timeout_s=LIMIT_S, shared_memory=False) as plain,
    ):
        for picture in digits_live[0][:50]:
            one, other = quick.infer(picture), plain.infer(picture)
            assert one._replace(request_id=0) == other._replace(request_id=0)
            assert quick.feedback(one.request_id, one.label).status == "ok"
        assert quick._window is not None
        assert plain._window is None
        raw = digits_live[0][0]
        assert quick.infer(RawTensor(raw.tobytes(), "float32", raw.shape)).status == "ok"
        assert quick.infer(raw.astype(np.float64).astype(np.float32)[::-1].copy()[::-1]).status == "ok"
        assert quick.infer(np.zeros((3, 3), np.float32)).status == "bad-input"
        assert quick.infer(raw).status == "ok"


def test_an_input_too_large_for_the_memory_goes_through_the_socket(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    with InferenceClient(bench.path, timeout_s=LIMIT_S) as client:
        assert client.infer(digits_live[0][0]).status == "ok"
        assert client.infer(np.zeros(100_000, np.float32)).status == "bad-input"
        assert client.infer(digits_live[0][0]).status == "ok"


def test_a_client_whose_worker_is_killed_asks_the_next_one(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    with InferenceClient(bench.path, timeout_s=LIMIT_S) as client:
        first = client.infer(digits_live[0][0])
        os.kill(bench.process.pid, 9)
        died = bench.until(lambda report: report.__class__.__name__ == "Died")
        assert (died.kind, died.during) == ("unexplained", "")  # it ran nothing just then
        bench.process.start()
        bench.ask(bench.ref(agent_bundles.v1))
        assert client.infer(digits_live[0][0]).outputs == first.outputs


def test_the_memory_cannot_be_shrunk_and_lies_in_it_end_only_the_liar(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    picture = digits_live[0][0]
    bodies = [
        (BY_SOCKET, b""),
        (4, b"\x01"),
        (0, b""),
        (len(_body(picture)) - 4, _body(picture)[:-4]),
        (40, encode_request(InferRequest((Tensor("float32", (4000, 4000), b""),)))),
        (4, encode_request(RingRequest())),
    ]
    for length, body in bodies:
        with bench.connect() as liar:
            descriptor = _share(liar)
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 10)
            memory = attach(descriptor)
            LENGTH.pack_into(memory.view, memory.request_at, length)
            memory.view[memory.request_at + 4 : memory.request_at + 4 + len(body)] = body
            memory.words[REQUESTED] = 1
            liar.sendall(frame(encode_request(RingRequest())))
            with contextlib.suppress(ConnectionResetError, struct.error):
                liar.recv(1 << 16)
            memory.close()
    with InferenceClient(bench.path, timeout_s=LIMIT_S) as honest:
        assert honest.infer(picture).status == "ok"


def test_memory_that_changes_under_the_reader_harms_nobody_else(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    stop = threading.Event()

    def scribble():
        random = np.random.default_rng(1)
        while not stop.is_set():
            with contextlib.suppress(OSError, AssertionError, struct.error), bench.connect() as liar:
                memory = attach(_share(liar))
                body = _body(digits_live[0][0])
                LENGTH.pack_into(memory.view, memory.request_at, len(body))
                memory.view[memory.request_at + 4 : memory.request_at + 4 + len(body)] = body
                for number in range(1, 50):
                    memory.words[REQUESTED] = number
                    liar.sendall(frame(encode_request(RingRequest())))
                    at = int(random.integers(memory.request_at, memory.request_at + 40))
                    memory.view[at] = int(random.integers(256))
                    memory.words[int(random.integers(32))] = int(random.integers(1 << 32))
                memory.close()

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        with InferenceClient(bench.path, timeout_s=LIMIT_S) as honest:
            assert {honest.infer(picture).status for picture in digits_live[0][:150]} == {"ok"}
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert bench.process.reports() == []


def test_areas_over_the_limit_are_refused(bench, agent_bundles):
    bench.serve(bench.ref(agent_bundles.v1))
    with bench.connect() as connection:
        connection.sendall(frame(encode_request(ShareRequest(1 << 30, mmap.PAGESIZE))))
        answer = _answer(connection)
    assert (answer.status, answer.detail) == ("failed", "an area has at most 16777216 bytes")


def test_applications_that_leave_no_room_send_the_next_one_to_the_socket(bench, agent_bundles, digits_live):
    made, picture = agent_bundles.v1, digits_live[0][0]
    bench.serve(bench.ref(made))
    size_bytes = AREA_LIMIT_BYTES - mmap.PAGESIZE
    ask = frame(encode_request(ShareRequest(size_bytes, size_bytes)))
    with contextlib.ExitStack() as held:
        for _ in range(SHARED_LIMIT_BYTES // (3 * AREA_LIMIT_BYTES)):
            os.close(_share(held.enter_context(bench.connect()), size_bytes))
        late = held.enter_context(bench.connect())
        late.sendall(ask)
        answer = _answer(late)
        assert (answer.status, answer.detail) == (
            "failed",
            "it would take 50331900 bytes, and other applications leave 16775956: use the socket",
        )
        late.sendall(frame(_body(picture)))
        assert _answer(late).status == "ok"
    with bench.connect() as connection:  # those are gone, and so is what they took
        bench.tools.wait_until(lambda: connection.sendall(ask) or _answer(connection).status == "ok", "room")


def test_a_crowd_with_shared_memory_leaves_files_for_models(tmp_path, agent_tools, agent_bundles, digits_live):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SESSION_LIMIT // 2, hard))  # for the worker, which inherits it
    try:
        bench = Bench(tmp_path, agent_tools)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with contextlib.closing(bench), contextlib.ExitStack() as held:
        bench.serve(bench.ref(agent_bundles.v1))
        for _ in range(SESSION_LIMIT // 4 + 80):
            os.close(_share(held.enter_context(bench.connect()), 1))
        assert isinstance(bench.serve(bench.ref(agent_bundles.v5)), Serving)
        bench.process.collect()
        bench.until(lambda report: isinstance(report, Collected))
        with InferenceClient(bench.path, timeout_s=LIMIT_S) as client:
            assert client.infer(digits_live[0][0]).release == "digits 5.0.0"


@pytest.mark.parametrize(("files", "sessions"), [(20_000, SESSION_LIMIT), (128, 32), (10, 1)])
def test_where_fewer_files_may_be_open_fewer_applications_are_connected(files, sessions):
    assert sessions_that_fit(files) == sessions


def test_who_holds_most_makes_room_for_the_others(bench, agent_bundles):
    bench.serve(bench.ref(agent_bundles.v1))
    share, value = BUFFER_LIMIT_BYTES // 5, RawTensor(bytes(2 << 20), "uint8", (2 << 20,))
    with contextlib.ExitStack() as held:
        for _ in range(5):  # half-sent requests that fill all the room there is
            hog = held.enter_context(bench.connect())
            hog.sendall(struct.pack("<I", FRAME_LIMIT_BYTES) + bytes(share - 4))
        with InferenceClient(bench.path, timeout_s=LIMIT_S, shared_memory=False) as client:
            answer = client.infer(value)
            assert (answer.status, answer.release) == ("bad-input", "digits 1.0.0")


def test_several_models_answer_by_name(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1, "one"), bench.ref(agent_bundles.v5, "two"))
    picture = digits_live[0][0]
    with (
        InferenceClient(bench.path, timeout_s=LIMIT_S, model="one") as one,
        InferenceClient(bench.path, timeout_s=LIMIT_S, model="two", shared_memory=False) as two,
        InferenceClient(bench.path, timeout_s=LIMIT_S, model="three") as three,
        InferenceClient(bench.path, timeout_s=LIMIT_S) as none,
    ):
        assert one.infer(picture).release == one.infer(picture).release == one.info().release == "one 1.0.0"
        assert two.infer(picture).release == two.info().release == "two 5.0.0"
        assert three.infer(picture).detail == "no model 'three' is installed, there is 'one', 'two'"
        assert none.infer(picture).detail == "the request names no model, there is 'one', 'two'"


def test_a_cold_swap_loses_no_request_and_a_failed_one_goes_back(bench, agent_bundles, digits_live):
    v1, v5 = bench.ref(agent_bundles.v1), bench.ref(agent_bundles.v5)
    bench.serve(v1)
    answers, stop = [], threading.Event()

    def ask():
        with InferenceClient(bench.path, timeout_s=LIMIT_S) as client:
            while not stop.is_set():
                answers.append(client.infer(digits_live[0][0]))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        bench.serve(v5, swap="cold")
        bench.tools.wait_until(lambda: answers and answers[-1].release == "digits 5.0.0", "an answer of the new one")
        for ref in (v1, v5) * 4 + (v1,):
            assert isinstance(bench.serve(ref, swap="cold"), Serving)
        broken = ModelRef(path=str(bench.folder / "missing"), release=v5.release)
        failed = bench.serve(broken, swap="cold")
        assert (failed.cause, failed.bundle_sha256) == ("file-missing", agent_bundles.v5.sha256)
        count = len(answers)
        bench.tools.wait_until(lambda: len(answers) > count + 5, "answers after the failed swap")
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert {answer.status for answer in answers} == {"ok"}
    assert answers[-1].release == "digits 1.0.0"
    assert {answer.release for answer in answers} == {"digits 1.0.0", "digits 5.0.0"}


def test_a_deadline_that_is_over_is_told(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    with InferenceClient(bench.path, timeout_s=LIMIT_S) as client:
        assert client.infer(digits_live[0][0], deadline_s=-1.0).status == "deadline"
        assert client.infer(digits_live[0][0], deadline_s=30.0).status == "ok"


def test_a_deadline_may_be_any_number(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    for shared_memory in (True, False):
        with InferenceClient(bench.path, timeout_s=LIMIT_S, shared_memory=shared_memory) as client:
            for deadline_s, status in ((1e12, "ok"), (1e300, "ok"), (float("inf"), "ok"), (0.0, "deadline")) * 2:
                assert client.infer(digits_live[0][0], deadline_s=deadline_s).status == status
            for deadline_s in (-1e12, -float("inf")) * 2:
                assert client.infer(digits_live[0][0], deadline_s=deadline_s).status == "deadline"
            with pytest.raises(InputError, match="a deadline is not a number"):
                client.infer(digits_live[0][0], deadline_s=float("nan"))


def test_rings_without_a_request_behind_them_are_passed_over(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    with bench.connect() as connection:
        connection.sendall(frame(encode_request(RingRequest())) * 5000 + frame(_body(digits_live[0][0])))
        assert _answer(connection).status == "ok"
    assert bench.process.reports() == []


def test_an_application_that_was_built_for_another_interface_is_told_by_name(bench, agent_bundles, digits_live):
    bench.serve(bench.ref(agent_bundles.v1))
    other = NeededInterface(outputs=(NeededTensor(shape=(1, 4)),), labels=("a", "b", "c", "d"))
    fitting = NeededInterface(labels=tuple("0123456789"))
    with (
        InferenceClient(bench.path, timeout_s=LIMIT_S) as wrong,
        InferenceClient(bench.path, timeout_s=LIMIT_S) as right,
    ):
        said = wrong.declare("camera", other)
        assert (said.status, said.detail) == (
            "incompatible",
            "output 0: the application needs the shape [1, 4], the release has [1, 10]; "
            "the application needs 4 labels, the release has 10",
        )
        assert wrong.infer(digits_live[0][0]).status == "incompatible"
        assert right.declare("door", fitting).release == "digits 1.0.0"
        assert right.infer(digits_live[0][0]).status == "ok"
    bench.until(lambda report: isinstance(report, Declared) and len(report.declarations) == 2)
    last = [report for report in bench.reports if isinstance(report, Declared)][-1]
    assert [declared.application for declared in last.declarations] == ["camera", "door"]
    assert last.declarations[1].interface == fitting


def test_a_declaration_that_cannot_be_read_is_refused(bench, agent_bundles):
    bench.serve(bench.ref(agent_bundles.v1))
    for document in (b"", b"{}", b'{"application": ""}', msgspec.json.encode({"application": "x", "more": 1})):
        with bench.connect() as connection:
            connection.sendall(frame(b"\x05\x01\x00\x00" + document))
            answer = _answer(connection)
            assert answer.status == "bad-input"
            assert answer.detail.startswith("the declaration cannot be read: ")


def test_a_worker_that_dies_at_work_leaves_the_bundle_behind(bench, agent_bundles):
    ref = bench.ref(agent_bundles.v1)
    bench.serve(ref)
    os.pwrite(bench.process._mark, ref.release.bundle_sha256.encode() + b"\1", 0)
    os.kill(bench.process.pid, 11)
    died = bench.until(lambda report: report.__class__.__name__ == "Died")
    assert (died.kind, died.during) == ("crash", agent_bundles.v1.sha256)
