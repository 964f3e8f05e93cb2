# SPDX-License-Identifier: Apache-2.0
"""Watching the system calls of a child process with strace: all that change a file, and what each was given."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgefleet.contracts.errors import EdgeFleetError, MissingProgramError, UnreachableError
from fleet_emulation.linux_devices.programs import find_program
from fleet_emulation.power_loss.children import fork, wait

#: What changes files or their names, or makes them durable; names that a machine does not know are left out.
CALLS = (
    *("openat", "open", "creat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "truncate"),
    *("fallocate", "fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "rename", "renameat", "renameat2"),
    *("link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
    *("copy_file_range", "sendfile", "splice"),
)
#: Recorded too: where the next write goes.
_MOVES = "lseek"
_STRACE = "strace"
_ATTACH_S = 10.0
_LOOK_S = 0.001
_MAXIMUM_BYTES = 1 << 26
_LINE = re.compile(r"^(?P<pid>\d+)\s+(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+|\?)(?:<(?P<path>.*?)>)?(?: .*)?$")
_HEX = re.compile(r"\\x([0-9a-f]{2})")
_ENDED = re.compile(r"^(\+\+\+|---)")


class Call(NamedTuple):
    """One system call: its number among those of its name in its process, what it was given, and its result.

    ``arguments`` are as strace writes them, with strings in hexadecimal; ``path`` is the file that was opened.
    """

    pid: int
    name: str
    number: int
    arguments: str
    result: int
    path: str


class Traced(NamedTuple):
    """A child that strace watches; it goes on as soon as the caller does."""

    pid: int
    strace: subprocess.Popen[bytes]


def record(work: Callable[[], None], log: Path) -> list[Call]:
    """Run ``work`` in a child to its end, and return each call of :data:`CALLS` that it made, in order.

    Raises:
        MissingProgramError: strace is not installed.
        EdgeFleetError: the child failed.
    """
    options = ["-y", "-xx", "-s", str(_MAXIMUM_BYTES), "-o", str(log)]
    with traced(work, options, calls=(*CALLS, _MOVES)) as child:
        status = wait(child.pid)
        child.strace.wait()
    if status != 0:
        raise EdgeFleetError(f"the recorded process ended with {status}", hint="see its traceback above")
    return list(read_log(log))


def run_killed(work: Callable[[], None], call: Call, log: Path) -> bool:
    """Run ``work`` in a child that is killed as it enters a call of another run; false: it ended before it came there.

    Raises:
        EdgeFleetError: the child failed in another way.
    """
    kill = f"inject={call.name}:signal=KILL:when={call.number}"
    with traced(work, ["-e", kill, "-o", str(log)], calls=(call.name,)) as child:
        status = wait(child.pid)
        child.strace.wait()
    if status not in (0, -signal.SIGKILL):
        raise EdgeFleetError(f"the process ended with {status} before it was killed", hint="see its traceback above")
    return status != 0


@contextmanager
def traced(work: Callable[[], None], options: Sequence[str], *, calls: Sequence[str] = CALLS) -> Iterator[Traced]:
    """Fork a child that runs ``work`` under strace; the caller waits for its end.

    Raises:
        MissingProgramError: strace is not installed.
        UnreachableError: strace may not watch, or does not.
    """
    known = ",".join(f"?{name}" for name in calls)
    command = [find_strace(), "-f", "-q", "-e", f"trace={known}", "-e", "signal=none", *options]

    def stopped() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        work()

    pid = fork(stopped)
    os.waitpid(pid, os.WUNTRACED)
    strace = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE)
    try:
        _wait_until_watched(pid, strace)
        os.kill(pid, signal.SIGCONT)
        yield Traced(pid, strace)
    finally:
        strace.kill()
        strace.wait()
        assert strace.stderr is not None  # noqa: S101  a pipe was asked for
        strace.stderr.close()


def find_strace() -> str:
    """Return strace's path.

    Raises:
        MissingProgramError: it is not installed.
    """
    found = find_program(_STRACE)
    if found is None:
        raise MissingProgramError(
            "the rigs of power loss need the program 'strace', which is not installed",
            hint="install it (Debian, Ubuntu: apt-get install strace)",
        )
    return found


def read_log(log: Path) -> Iterator[Call]:
    """Yield the calls of strace's log, in the order in which they ended."""
    numbers: dict[tuple[int, str], int] = {}
    open_calls: dict[int, tuple[str, int]] = {}
    for line in log.read_text(encoding="latin-1").splitlines():
        found = _LINE.match(line)
        if found is None or _ENDED.match(found["rest"]):
            continue
        pid, rest = int(found["pid"]), found["rest"]
        if rest.startswith("<... "):
            begun, number = open_calls.pop(pid)
            rest = begun + rest.partition(" resumed>")[2]
        else:
            name = rest.partition("(")[0]
            number = numbers[pid, name] = numbers.get((pid, name), 0) + 1
        if rest.endswith(" <unfinished ...>"):
            open_calls[pid] = (rest.removesuffix(" <unfinished ...>"), number)
            continue
        call = _CALL.match(rest)
        if call is not None and call["result"] != "?":
            path = unescaped(call["path"] or "").decode(errors="surrogateescape")
            yield Call(pid, call["name"], number, call["arguments"], int(call["result"]), path)


def unescaped(text: str) -> bytes:
    """Return the bytes that strace wrote as ``\\\\x41\\\\x42``."""
    return _HEX.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")


def _wait_until_watched(pid: int, strace: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _ATTACH_S
    while f"TracerPid:\t{strace.pid}" not in Path(f"/proc/{pid}/status").read_text():
        if strace.poll() is not None or time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            said = _last_words(strace)
            raise UnreachableError(
                f"strace does not watch the process: {said}",
                hint="it needs the right to trace: see kernel.yama.ptrace_scope",
            )
        time.sleep(_LOOK_S)


def _last_words(strace: subprocess.Popen[bytes]) -> str:
    if strace.poll() is None or strace.stderr is None:
        return "it says nothing"
    return strace.stderr.read().decode(errors="replace").strip()[:300]
