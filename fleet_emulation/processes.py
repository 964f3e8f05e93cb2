# SPDX-License-Identifier: Apache-2.0
"""Start programs of our own, wait until they say that they are ready, and stop each by its own process id."""

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from edgefleet.contracts.errors import EdgeFleetError, UnreachableError

T = TypeVar("T")


_LOG_TAIL_LINES = 12


class Program:
    """One running program; what it writes on standard error goes to ``log``, its process group is its own."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.environment = dict(environment or {})
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*_die_with_us(), *self.command],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Tell whether the program has not ended."""
        return self.process.poll() is None

    def ready(self, kind: type[T], *, limit_s: float = 120.0) -> T:
        """Wait for the program's first line on standard output and decode it as JSON.

        Raises:
            EdgeFleetError: the program ended, or said nothing in time; the message ends with its last words.
        """
        line = self._first_line(time.monotonic() + limit_s)
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as error:
            raise EdgeFleetError(
                f"{self.name} did not start: {self.last_words() or line.decode(errors='replace').strip()}",
                hint=f"see its log: {self.log}",
            ) from error

    def _first_line(self, deadline: float) -> bytes:
        out = self.process.stdout
        assert out is not None  # noqa: S101  # Popen was asked for a pipe
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise UnreachableError(f"{self.name} did not get ready in time", hint=f"see its log: {self.log}")
        return out.readline()

    def last_words(self) -> str:
        """Return the end of the program's log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def kill(self) -> None:
        """Send SIGKILL to the program alone, as a crash or an out-of-memory killer does, and reap it."""
        self.process.kill()
        self.process.wait()

    def stop(self, *, limit_s: float = 10.0) -> int:
        """Ask the program to end (SIGTERM), kill its process group after ``limit_s``, and return its exit status."""
        if self.running:
            self.process.terminate()
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            status = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _die_with_us() -> list[str]:
    """Return the words that let a program end when we are killed ourselves (util-linux has them on any Linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
