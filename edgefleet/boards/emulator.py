# SPDX-License-Identifier: Apache-2.0
"""Boards in QEMU: boot an image, talk to its serial ports, wait for its end, and leave nothing behind.

* Each board has a private folder: its files by semihosting, its text, its counts.
* A board ends with the ``with`` block that booted it. The kernel kills it when the thread that booted it ends, however
  that happens: boot boards from a thread that outlives them.
* A board needs no thread: hundreds can be up in one process, and :func:`wait_all` waits for all of them at once.
"""

import ctypes
import os
import re
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from edgefleet.boards.counting import CountLog, counter_plugin, parse_counts
from edgefleet.boards.images import Image
from edgefleet.boards.qemu import Qemu, emulator_of, find_qemu
from edgefleet.contracts.errors import BoardError
from edgefleet.contracts.profile import Profile

UartKind = Literal["unix", "tcp", "pty"]

#: The exit code of the start-up when the processor faults (firmware/boards/board.h).
FAULT = 99
#: What QEMU says when a fault's handler faults: there is no stack for it.
_LOCKUP = "Lockup: can't escalate"
_CONSOLE, _COUNTS = "console.txt", "counts.txt"
#: A board that writes without end must not fill the disk.
_MOST_FILE_BYTES = 1 << 30
_PTY = re.compile(rb"char device redirected to (\S+) \(label uart(\d+)\)")
_PTY_LIMIT_S = 20.0
_CONSOLE_SHOWN_BYTES = 1 << 20


class Board:
    """A board that is up, or has been."""

    def __init__(
        self, profile: Profile, folder: Path, process: "subprocess.Popen[bytes]", timeout_s: float | None
    ) -> None:
        self.profile = profile
        self.folder = folder
        self._process = process
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._uarts: dict[int, Path | tuple[str, int]] = {}

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the board has not ended yet."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """What the board printed by semihosting, and QEMU's own messages; bytes that are no UTF-8 are replaced."""
        with (self.folder / _CONSOLE).open("rb") as console:
            return console.read(_CONSOLE_SHOWN_BYTES).decode(errors="replace")

    def wait(self) -> int:
        """Wait for the board's end and return its exit code.

        Raises:
            BoardError: it did not end in time and was stopped; the processor faulted; QEMU refused or was killed.
        """
        wait_all([self])
        return self.exit_code()

    def exit_code(self) -> int:
        """Return the exit code of a board that has ended.

        Raises:
            BoardError: it is still running, faulted, or QEMU itself failed.
        """
        status = self._process.poll()
        if status is None:
            raise BoardError(f"the board '{self.profile.id}' is still running", hint="wait for its end")
        if status == FAULT or (status == -signal.SIGABRT and _LOCKUP in self.output):
            raise self._faulted()
        if status < 0:
            raise BoardError(
                f"the board '{self.profile.id}' was killed by {signal.Signals(-status).name}{self._said()}",
                hint="run it again; if nobody killed it, it wrote a file without end, or QEMU has a defect",
            )
        if status == 1 and "qemu-system" in self.output:
            raise BoardError(
                f"QEMU cannot be the board '{self.profile.id}'{self._said()}", hint="install QEMU 7.2 or later"
            )
        return status

    def _faulted(self) -> BoardError:
        said = "" if _LOCKUP in self.output else self._said()
        return BoardError(
            f"the processor of the board '{self.profile.id}' faulted{said}",
            hint="the program reached for memory that is not there, or its stack was too small",
        )

    def _said(self) -> str:
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return f"; it said {lines[-1][:120]!r}" if lines else ""

    def counts(self) -> CountLog:
        """Return what was counted so far; nothing where the board was booted without counting.

        Raises:
            BoardError: the counts are damaged.
        """
        path = self.folder / _COUNTS
        return parse_counts(path.read_text(encoding="ascii", errors="replace") if path.exists() else "")

    def uart(self, number: int) -> Path | tuple[str, int]:
        """Return where a serial port ends on this machine: a unix socket's or pty's path, or a TCP address.

        Raises:
            BoardError: the port was not asked for at boot, or QEMU did not make its pty in time.
        """
        if number not in self._uarts:
            self._uarts[number] = self._pty(number)
        return self._uarts[number]

    def connect(self, number: int, *, limit_s: float = 10.0) -> socket.socket:
        """Return a connection to a serial port that is a unix or TCP socket, with ``limit_s`` as its timeout."""
        address = self.uart(number)
        if isinstance(address, tuple):
            return socket.create_connection(address, limit_s)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(limit_s)
        with _short(address) as name:
            link.connect(name)
        return link

    def _pty(self, number: int) -> Path:
        until = time.monotonic() + _PTY_LIMIT_S
        while True:
            for path, label in _PTY.findall((self.folder / _CONSOLE).read_bytes()):
                if int(label) == number:
                    return Path(os.fsdecode(path))
            if not self.alive or time.monotonic() > until:
                raise BoardError(
                    f"the board '{self.profile.id}' has no serial port {number}{self._said()}",
                    hint="name the ports that you want when you boot it",
                )
            time.sleep(0.005)

    def stop(self) -> None:
        """End the board now, if it has not ended, and reap its process."""
        if self.alive:
            self._process.kill()
        self._process.wait()

    def _overdue(self) -> BoardError:
        return BoardError(
            f"the board '{self.profile.id}' did not end in {self._timeout_s:g} s and was stopped{self._said()}",
            hint="the program hangs, or needs a longer timeout",
        )


@contextmanager
def boot(
    image: Image,
    profile: Profile,
    *,
    folder: Path,
    uarts: Sequence[int] = (),
    uart_kind: UartKind = "unix",
    uart_wait: bool = False,
    counting: bool = False,
    timeout_s: float | None = 60.0,
) -> Iterator[Board]:
    """Boot an image; the board runs at once and ends at the latest with the block.

    ``folder`` is the board's own: semihosting files are there. ``uarts`` are serial ports to be reached from here; the
    others lead nowhere. What a board says before its socket is connected is lost, unless ``uart_wait`` lets the board
    begin only then. After ``timeout_s`` a board that is waited for is stopped; None waits for ever.

    Raises:
        MissingProgramError: QEMU, or for ``counting`` a compiler, is not installed.
        IncompatibleError: QEMU has no machine for the board.
        BoardError: QEMU cannot be started.
    """
    board = start(
        image,
        profile,
        folder=folder,
        uarts=uarts,
        uart_kind=uart_kind,
        uart_wait=uart_wait,
        counting=counting,
        timeout_s=timeout_s,
    )
    try:
        yield board
    finally:
        board.stop()


def start(
    image: Image,
    profile: Profile,
    *,
    folder: Path,
    uarts: Sequence[int] = (),
    uart_kind: UartKind = "unix",
    uart_wait: bool = False,
    counting: bool = False,
    timeout_s: float | None = 60.0,
) -> Board:
    """Do as :func:`boot`, for a caller who calls ``stop`` himself."""
    qemu = find_qemu(profile)
    folder.mkdir(parents=True, exist_ok=True)
    plugin = ("-plugin", _plugin(qemu, image)) if counting else ()
    ports = {number: _listen(folder, number, uart_kind) for number in uarts if uart_kind != "pty"}
    command = (*_machine(qemu, profile, image), *plugin, *_serial(uarts, ports, wait=uart_wait))
    try:
        process = _spawn(command, folder, [port.fileno() for port in ports.values()])
    except OSError as error:
        raise BoardError(
            f"'{command[0]}' cannot be started: {error.strerror or error}", hint="install QEMU again"
        ) from error
    finally:
        addresses = {number: _address(port, folder, number) for number, port in ports.items()}
        for port in ports.values():
            port.close()
    board = Board(profile, folder, process, timeout_s)
    board._uarts.update(addresses)
    return board


def wait_all(boards: Sequence[Board]) -> None:
    """Wait until every board has ended.

    Raises:
        BoardError: one did not end in its time; it was stopped, the others run on.
    """
    waiting = {os.pidfd_open(board.pid): board for board in boards if board.alive}
    poller = select.poll()
    for handle in waiting:
        poller.register(handle, select.POLLIN)
    try:
        while waiting:
            soonest = min((board._deadline_s for board in waiting.values() if board._deadline_s), default=None)
            left_ms = None if soonest is None else max(0.0, soonest - time.monotonic()) * 1000
            ended = [handle for handle, _ in poller.poll(left_ms)]
            for handle in ended:
                poller.unregister(handle)
                os.close(handle)
                waiting.pop(handle).alive  # noqa: B018  (reaps it)
            if not ended:
                _stop_overdue(list(waiting.values()))
    finally:
        for handle in waiting:
            os.close(handle)


def _stop_overdue(boards: Sequence[Board]) -> None:
    for board in boards:
        if board._deadline_s is not None and time.monotonic() >= board._deadline_s and board.alive:
            board.stop()
            raise board._overdue()


def _machine(qemu: Qemu, profile: Profile, image: Image) -> tuple[str, ...]:
    facts = emulator_of(profile)
    cpu = ("-cpu", facts.cpu) if facts.cpu else ()
    bios = ("-bios", "none") if facts.program.startswith("qemu-system-riscv") else ()
    return (
        *(str(qemu.program), "-M", facts.machine, *cpu, *bios, "-kernel", str(image.elf.resolve())),
        *("-nographic", "-monitor", "none", "-no-reboot"),
        *("-semihosting-config", "enable=on,target=native"),
    )


def _plugin(qemu: Qemu, image: Image) -> str:
    symbols = image.symbols
    stack = f"{symbols['board_stack_low']:#x}:{symbols['board_stack_top']:#x}"
    return f"{counter_plugin(qemu)},marker={symbols['ef_marker']:#x},stack={stack},out={_COUNTS}"


def _serial(uarts: Sequence[int], ports: dict[int, socket.socket], *, wait: bool) -> Iterator[str]:
    if not uarts:
        yield from ("-serial", "none")
    for number in range(max(uarts, default=-1) + 1):
        if number not in uarts:
            yield from ("-serial", "null")
            continue
        end = (
            f"socket,id=uart{number},fd={ports[number].fileno()},server=on,wait={'on' if wait else 'off'}"
            if ports
            else f"pty,id=uart{number}"
        )
        yield from ("-chardev", end, "-serial", f"chardev:uart{number}")


def _listen(folder: Path, number: int, kind: UartKind) -> socket.socket:
    if kind == "tcp":
        port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        port.bind(("127.0.0.1", 0))
    else:
        port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            (folder / f"uart{number}").unlink()
        with _short(folder / f"uart{number}") as name:
            port.bind(name)
    port.listen(1)
    return port


def _address(port: socket.socket, folder: Path, number: int) -> Path | tuple[str, int]:
    if port.family == socket.AF_INET:
        host, number = port.getsockname()
        return (host, number)
    return folder / f"uart{number}"


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a unix socket in any folder: the name itself may have 107 bytes only."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _spawn(command: Sequence[str], folder: Path, handles: Sequence[int]) -> "subprocess.Popen[bytes]":
    with (folder / _CONSOLE).open("wb") as console:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=handles,
            preexec_fn=_child_setup(os.getpid()),
        )


_libc = ctypes.CDLL(None, use_errno=True)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def _child_setup(parent: int) -> Callable[[], None]:
    """What QEMU's process does before it becomes QEMU: die with its parent, write no endless files."""

    def prepare() -> None:
        _libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE_BYTES, _MOST_FILE_BYTES))

    return prepare
