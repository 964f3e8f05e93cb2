# SPDX-License-Identifier: Apache-2.0
"""The inference worker as a child process.

The supervisor keeps the listening socket, so connections queue while a worker restarts. Workers are started from the
thread that calls :meth:`WorkerProcess.start`, which must live as long as the agent: the kernel ties a worker's life
to it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from device_agent.control_channel import ControlChannel
from device_agent.core.serving import Collect, Command, Died, ModelRef, Report, ServingPlan, Stop, Verify
from device_agent.process_bounds import rss_bytes

#: Signals that come from outside; a model does not send them to its own process.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOP_S = 5.0
#: The interpreter has its own threads; those of numpy's libraries would only cost memory and time at the start.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class WorkerProcess:
    """Starts, commands and watches one worker at a time."""

    def __init__(self, listener: socket.socket, *, threads: int = 1) -> None:
        self._listener = listener
        self._threads = threads
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: ControlChannel | None = None
        self._killed_for: str | None = None
        self._late: list[Report] = []
        self._on_channel: Callable[[socket.socket | None], None] = lambda _: None

    def watch(self, on_channel: Callable[[socket.socket | None], None]) -> None:
        """Call ``on_channel`` with the control socket of each new worker (None when it is gone), to select on."""
        self._on_channel = on_channel
        if self._channel is not None:
            on_channel(self._channel.socket)

    @property
    def pid(self) -> int | None:
        """The worker's process id, None while none runs."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start a worker if none runs."""
        if self._child is not None:
            return
        mine, its = socket.socketpair()
        arguments = [str(n) for n in (self._listener.fileno(), its.fileno(), os.getpid(), self._threads)]
        with its:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "device_agent.worker.main", *arguments],
                pass_fds=(self._listener.fileno(), its.fileno()),
                env=os.environ | _ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        mine.setblocking(False)
        self._killed_for = None
        self._channel = ControlChannel(mine)
        self._on_channel(mine)

    def serve(self, plan: ServingPlan) -> None:
        """Ask for a plan to be put in force."""
        self._send(plan)

    def verify(self, model: ModelRef) -> None:
        """Ask for a verification by fresh inferences."""
        self._send(Verify(model=model))

    def collect(self) -> None:
        """Ask for the counts since the last time."""
        self._send(Collect())

    def reports(self) -> list[Report]:
        """Return the reports since the last call; the end of the worker is the last of them."""
        collected, self._late = self._late, []
        if self._channel is None:
            return collected
        while batch := self._channel.receive(Report):
            collected += batch
        if batch is None:
            collected.append(self._reap())
        return collected

    def kill(self, why: str) -> None:
        """End a worker that does not answer; reported as a crash with this reason."""
        if self._child is not None:
            self._killed_for = why
            self._child.kill()

    def stop(self) -> None:
        """Let the worker hand over its last counts and end, and end it if it does not."""
        if self._child is None:
            return
        self._send(Collect())
        self._send(Stop())
        self._late = self._last_reports()
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._forget()

    def rss_bytes(self) -> int:
        """Return the resident memory of the worker, 0 if none runs."""
        return rss_bytes(self._child.pid) if self._child else 0

    def _last_reports(self) -> list[Report]:
        """Read until the worker has closed its end."""
        assert self._channel is not None  # noqa: S101  stop() looked
        self._channel.socket.settimeout(_STOP_S)
        last: list[Report] = []
        with contextlib.suppress(TimeoutError):
            while (batch := self._channel.receive(Report)) is not None:
                last += batch
        return last

    def _send(self, command: Command) -> None:
        if self._channel is None:
            return
        self._channel.socket.setblocking(True)
        self._channel.socket.settimeout(_STOP_S)
        self._channel.send(command)
        self._channel.socket.setblocking(False)

    def _reap(self) -> Died:
        child = self._child
        why = self._killed_for
        status = 0
        if child is not None:
            try:
                status = child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                why = "closed its control channel and did not end"
                child.kill()
                status = child.wait()
        self._forget()
        if why is not None:
            return Died(kind="crash", detail=f"the worker was ended: it {why}")
        return _explain(status)

    def _forget(self) -> None:
        self._on_channel(None)
        if self._channel is not None:
            self._channel.socket.close()
        self._channel = None
        self._child = None


def _explain(status: int) -> Died:
    if status >= 0:
        return Died(kind="crash", detail=f"the worker ended with status {status}")
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    kind = "unexplained" if -status in _FROM_OUTSIDE else "crash"
    return Died(kind=kind, detail=f"the worker was ended by the signal {name}")  # type: ignore[arg-type]
