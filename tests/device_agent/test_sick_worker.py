# SPDX-License-Identifier: Apache-2.0
"""Both clients against a worker that is sick or means harm: they say so in time, and lose no file and no memory.

The C client runs with sanitizers, which end it where it reads or writes what is not its own.
"""

import contextlib
import fcntl
import os
import random
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from device_agent.client import InferenceClient, RawTensor
from device_agent.inference_protocol import ANSWER_RING_BODY, AnswerFrame, Tensor, encode_answer, frame
from device_agent.shared_memory import ANSWERED, HEAD_BYTES, REQUEST_SIZE
from edgefleet.contracts.errors import UnreachableError

#: Ends a test that fails.
LIMIT_S = 120.0
AREA, CALLS, INPUT_BYTES, TIMEOUT_MS = 1 << 16, 12, 40_000, 150
FINE = frame(encode_answer(AnswerFrame("ok", 1, 0, 0.5, "a 1.0.0")))
RING = frame(ANSWER_RING_BODY)


def request(connection):
    head = connection.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        raise ConnectionResetError
    return connection.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL)


def memory(said=(AREA, AREA), size_bytes=HEAD_BYTES + 2 * AREA, seals=fcntl.F_SEAL_SHRINK):
    descriptor = os.memfd_create("sick", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    os.pwrite(descriptor, struct.pack("=II", *said), 4 * REQUEST_SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def passing(data, descriptors, then=lambda _connection, _descriptor: None):
    """Answer the request for memory with data and files, and go on with the first one."""

    def behave(connection):
        request(connection)
        files = [make() for make in descriptors]
        try:
            socket.send_fds(connection, [data], files)
            then(connection, files[0])
        finally:
            for descriptor in files:
                os.close(descriptor)

    return behave


def shrink(connection, descriptor):
    os.ftruncate(descriptor, 0)
    request(connection)


def answering(length, said=None):
    """Say that the answer in the memory has a length, and let its head say other sizes."""

    def go_on(connection, descriptor):
        while True:
            request(connection)
            if said:
                os.pwrite(descriptor, struct.pack("=II", *said), 4 * REQUEST_SIZE)
            os.pwrite(descriptor, struct.pack("=I", length), HEAD_BYTES + AREA)
            os.pwrite(descriptor, os.pread(descriptor, 4, 0), 4 * ANSWERED)
            connection.sendall(RING)

    return go_on


def rings_without_end(connection):
    request(connection)
    while True:
        connection.sendall(RING * 5000)


def never_whole(connection):
    request(connection)
    connection.sendall(struct.pack("<I", 1 << 26) + bytes(100))
    connection.recv(1)


SICK = {
    "a file, and half an answer": passing(FINE[:10], [memory]),
    "two files": passing(FINE, [memory, memory]),
    "a file that is no memory": passing(FINE, [lambda: os.open("/dev/null", os.O_RDWR)]),
    "memory that is smaller than it says": passing(FINE, [lambda: memory(size_bytes=4096)]),
    "memory that is shrunk": passing(FINE, [lambda: memory(seals=0)], shrink),
    "areas without room": passing(FINE, [lambda: memory(said=(AREA, 2))], answering(0xF0000000)),
    "an answer that is too long": passing(FINE, [memory], answering(0xFFFF0000)),
    "areas that grow later": passing(FINE, [memory], answering(100, said=(1 << 26, 1 << 26))),
    "rings without end": rings_without_end,
    "an answer that is never whole": never_whole,
}


@contextlib.contextmanager
def worker(folder, behave):
    """Let something listen that behaves so to each connection."""
    path = folder / "sick.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    threads = []

    def attend(connection):
        with connection, contextlib.suppress(OSError, struct.error):
            connection.settimeout(LIMIT_S)
            behave(connection)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=attend, args=(listener.accept()[0],), daemon=True)
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(LIMIT_S)


@pytest.fixture(scope="module")
def program(with_the_c_client):
    return with_the_c_client("c_hostile_client.c")


def ran(program, path, *, share=AREA, timeout_ms=TIMEOUT_MS, calls=CALLS, size_bytes=INPUT_BYTES):
    """Run the C client; returns its lines, and how many files it has open at its end."""
    arguments = [str(number) for number in (share, timeout_ms, calls, size_bytes)]
    done = subprocess.run([program, path, *arguments], capture_output=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    *lines, files = done.stdout.splitlines()
    return lines, int(files)


@pytest.mark.parametrize("sickness", SICK)
def test_the_c_client_tells_a_sick_worker(program, tmp_path, sickness):
    with worker(tmp_path, SICK[sickness]) as path:
        lines, files = ran(program, path)
    assert {line.partition(b"|")[0] for line in lines} == {b"-1"}
    assert len(lines) == CALLS
    assert files <= 7  # three of its own, the folder's, two names, and one connection


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("sickness", SICK)
def test_the_python_client_tells_a_sick_worker_or_takes_the_socket(tmp_path, sickness):
    value, before = RawTensor(bytes(INPUT_BYTES), "uint8", (INPUT_BYTES,)), open_files()
    with (
        worker(tmp_path, SICK[sickness]) as path,
        InferenceClient(path, timeout_s=TIMEOUT_MS / 1000) as client,
    ):
        for _ in range(4):
            with contextlib.suppress(UnreachableError):
                assert client.infer(value).release == "a 1.0.0"
    assert open_files() == before


def spoilt(draw):
    """An answer's frame with some bytes changed, and now and then cut."""
    shapes = draw.choice([[(1, 3)], [(2, 2), (1,)], [()], []])
    sizes = {(1, 3): 12, (2, 2): 16, (1,): 4, (): 4}
    tensors = tuple(Tensor("float32", shape, bytes(sizes[shape])) for shape in shapes)
    data = bytearray(frame(encode_answer(AnswerFrame("ok", 5, 1, 0.5, "a 1.0.0", "ä" * 200, "no", tensors))))
    for _ in range(draw.randrange(6)):
        data[draw.randrange(4, len(data))] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
    return data[: draw.randrange(len(data))] if draw.random() < 0.2 else data


def test_spoilt_answers_are_read_within_their_bounds(program, tmp_path):
    draw = random.Random(7)

    def behave(connection):
        while request(connection):
            data = spoilt(draw)
            connection.sendall(data)
            if len(data) < 4 or len(data) < 4 + struct.unpack_from("<I", data)[0]:
                return

    with worker(tmp_path, behave) as path:
        lines, _ = ran(program, path, share=0, calls=2000, size_bytes=16, timeout_ms=60_000)
        assert len(lines) >= 2000
        answers = 0
        for _ in range(300):
            with contextlib.suppress(UnreachableError), InferenceClient(path, shared_memory=False) as client:
                answers += bool(client.infer(RawTensor(b"1", "uint8", (1,))).status)
    assert answers


def test_a_path_that_no_socket_can_have_is_told(program, tmp_path):
    lines, _ = ran(program, tmp_path / ("x" * 200), calls=1)
    assert lines == [b"-2|||the socket's path is empty or too long"]
