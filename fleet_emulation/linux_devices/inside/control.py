# SPDX-License-Identifier: Apache-2.0
"""The host's hand inside an emulated device: carries out requests that come over a virtio-serial port.

A message is two lengths (uint32, little-endian), a JSON object and bytes. A request has ``id``, ``do`` and what the
function of that name below takes; each is answered with its ``id``, or with ``error``. Requests run side by side.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LENGTHS = struct.Struct("<II")
PORT_NAME = "edgefleet.control"
#: The one address and port of the host's network that a device reaches; what comes first there is the wanted port.
GATE = ("10.0.2.100", 1)
DATA = Path("/data")
_PORTS = Path("/sys/class/virtio-ports")
_LOOK_AGAIN_S = 0.01
_SILENCE_S = 1.0
_PIECE_BYTES = 64 << 10
# linux/random.h
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
# linux/fs.h
_BLKFLSBUF = 0x1261
# linux/reboot.h, by way of the C library
_RB_POWER_OFF = 0x4321FEDC

Message = dict[str, Any]


class Answer(NamedTuple):
    """What a request is answered with."""

    message: Message
    payload: bytes = b""


class Control:
    """Reads requests from a port and answers them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writing = threading.Lock()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._applications: dict[int, socket.socket] = {}
        self._reached: set[int] = set()
        self._requests: dict[str, Callable[[Message, bytes], Answer]] = {
            "wake": self._wake,
            "run": self._run,
            "start": self._start,
            "end": self._end,
            "put": self._put,
            "get": self._get,
            "reach": self._reach,
            "ask": self._ask,
            "power-off": self._power_off,
        }

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            head, payload = (self._read(length) for length in LENGTHS.unpack(self._read(LENGTHS.size)))
            threading.Thread(target=self._carry_out, args=(json.loads(head), payload), daemon=True).start()

    def _read(self, length: int) -> bytes:
        """Read so many bytes; while nobody is at the other end, the port reads as if it were at its end."""
        read = bytearray()
        while len(read) < length:
            piece = os.read(self._port, min(length - len(read), _PIECE_BYTES))
            if not piece:
                time.sleep(_LOOK_AGAIN_S)
            read += piece
        return bytes(read)

    def _carry_out(self, request: Message, payload: bytes) -> None:
        try:
            answer = self._requests[request["do"]](request, payload)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            answer = Answer({"error": what, "missing": isinstance(error, FileNotFoundError)})
        head = json.dumps(answer.message | {"id": request["id"]}).encode()
        left = memoryview(LENGTHS.pack(len(head), len(answer.payload)) + head + answer.payload)
        with self._writing:
            while left:  # the port takes a part of a long message at a time
                left = left[os.write(self._port, left[:_PIECE_BYTES]) :]

    def _wake(self, request: Message, entropy: bytes) -> Answer:
        """Set the clock, take randomness that no other device has, and mount the disk: all that a snapshot has not."""
        time.clock_settime(time.CLOCK_REALTIME, request["unix_s"])
        add_entropy(entropy)
        mount_disk(find_disk("data"))
        return Answer({})

    def _run(self, request: Message, stdin: bytes) -> Answer:
        process = popen(request, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(stdin, timeout=request["limit_s"])
        except subprocess.TimeoutExpired:
            kill_group(process)
            return Answer({"error": "timeout", "late": True})
        return Answer({"status": process.returncode, "out_bytes": len(out)}, out + err)

    def _start(self, request: Message, _payload: bytes) -> Answer:
        """Start a program and wait for its first line, as services say that they are ready."""
        with Path(request["log"]).open("ab") as log:
            process = popen(request, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self._processes[process.pid] = process
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        if not select.select([process.stdout], [], [], request["limit_s"])[0]:
            kill_group(process)
            return Answer({"error": "timeout", "late": True})
        line = process.stdout.readline()
        threading.Thread(target=process.wait, daemon=True).start()
        return Answer({"pid": process.pid}, line)

    def _end(self, request: Message, _payload: bytes) -> Answer:
        """Send a signal to a program that was started, and wait for its end."""
        process = self._processes.get(request["pid"])
        if process is None:
            raise ValueError(f"no program was started as {request['pid']} since the device is on")
        if process.poll() is None:
            process.send_signal(request["signal"])
        try:
            status = process.wait(request["limit_s"])
        except subprocess.TimeoutExpired:
            kill_group(process)
            return Answer({"error": "timeout", "late": True})
        del self._processes[process.pid]
        return Answer({"status": status})

    def _put(self, request: Message, data: bytes) -> Answer:
        path = Path(request["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(request["mode"])
        return Answer({})

    def _get(self, request: Message, _payload: bytes) -> Answer:
        return Answer({}, Path(request["path"]).read_bytes())

    def _reach(self, request: Message, _payload: bytes) -> Answer:
        """Let programs here find a port of the host's at their own 127.0.0.1."""
        port = request["port"]
        if port not in self._reached:
            listener = socket.create_server(("127.0.0.1", port), backlog=64)
            self._reached.add(port)
            threading.Thread(target=relay_all, args=(listener, port), daemon=True).start()
        return Answer({})

    def _ask(self, request: Message, frame: bytes) -> Answer:
        """Pass one request of an application on to a local socket, and its answer back; both begin with their length.

        Each of the host's applications has a connection of its own here, which ends with the application's.
        """
        application = request["application"]
        if not frame:
            if connection := self._applications.pop(application, None):
                connection.close()
            return Answer({})
        try:
            return Answer({}, self._exchange(application, request["socket"], frame, request["limit_s"]))
        except OSError:
            self._applications.pop(application).close()
            raise

    def _exchange(self, application: int, path: str, frame: bytes, limit_s: float) -> bytes:
        if application not in self._applications:
            self._applications[application] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._applications[application].settimeout(limit_s)
            self._applications[application].connect(path)
        connection = self._applications[application]
        connection.settimeout(limit_s)
        connection.sendall(frame)
        head = receive(connection, 4)
        return head + receive(connection, struct.unpack("<I", head)[0])

    def _power_off(self, _request: Message, _payload: bytes) -> Answer:
        for process in list(self._processes.values()):
            if process.poll() is None:
                process.terminate()
        for process in list(self._processes.values()):
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                kill_group(process)
        subprocess.run(["/bin/umount", str(DATA)], check=False)
        os.sync()
        ctypes.CDLL(None).reboot(_RB_POWER_OFF)
        return Answer({})


def popen(request: Message, **pipes: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, as the user that the request names."""
    user = request.get("user")
    environment = dict(os.environ, **request.get("environment", {}))
    return subprocess.Popen(
        request["command"],
        env=environment,
        cwd=request.get("folder", "/"),
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        **pipes,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def receive(connection: socket.socket, length: int) -> bytes:
    """Read so many bytes from a socket."""
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(length - len(received))
        if not piece:
            raise ConnectionResetError("the other end hung up")
        received += piece
    return bytes(received)


def add_entropy(data: bytes) -> None:
    """Mix randomness into the kernel's, and let it count at once (random(4))."""
    with Path("/dev/urandom").open("wb", buffering=0) as random:
        fcntl.ioctl(random, _RNDADDENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(random, _RNDRESEEDCRNG)


def find_disk(serial: str) -> Path:
    """Return the device file of the disk that QEMU gave this serial number."""
    for disk in Path("/sys/block").glob("vd*"):
        if (disk / "serial").read_text().strip() == serial:
            return Path("/dev") / disk.name
    raise FileNotFoundError(f"there is no disk '{serial}'")


def mount_disk(disk: Path) -> None:
    """Mount the device's own disk, without a trust in what a snapshot remembers of it."""
    with disk.open("rb") as file:
        fcntl.ioctl(file, _BLKFLSBUF)
    done = subprocess.run(["/bin/mount", "-t", "ext4", str(disk), str(DATA)], capture_output=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"cannot mount the disk: {done.stderr.decode(errors='replace').strip()}")


def relay_all(listener: socket.socket, port: int) -> None:
    """Carry each connection to the host's gate, for ever."""
    while True:
        mine, _ = listener.accept()
        threading.Thread(target=relay, args=(mine, port), daemon=True).start()


def relay(mine: socket.socket, port: int) -> None:
    """Carry one connection to a port of the host's."""
    with mine, socket.socket() as gate:
        try:
            gate.connect(GATE)
            gate.sendall(struct.pack("<H", port))
            carry(mine, gate)
        except OSError:
            return  # the application sees its connection end, as it does when a network goes


def carry(one: socket.socket, other: socket.socket, goes_on: Callable[[], bool] = lambda: True) -> None:
    """Copy bytes both ways until both ends have said all; in silence, ask each second whether it ``goes_on``."""
    open_ends = {one: other, other: one}
    while open_ends:
        ready = select.select(list(open_ends), [], [], _SILENCE_S)[0]
        if not ready and not goes_on():
            return
        for source in ready:
            piece = source.recv(_PIECE_BYTES)
            if piece:
                open_ends[source].sendall(piece)
            else:
                open_ends.pop(source).shutdown(socket.SHUT_WR)


def open_port() -> int:
    """Open the port by the name that QEMU gave it."""
    for port in _PORTS.iterdir():
        if (port / "name").read_text().strip() == PORT_NAME:
            return os.open(Path("/dev") / port.name, os.O_RDWR)
    raise FileNotFoundError(f"there is no port '{PORT_NAME}'")


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    Control(open_port()).serve()
