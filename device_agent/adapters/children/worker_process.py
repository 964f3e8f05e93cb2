# SPDX-License-Identifier: Apache-2.0
"""The inference worker as a child process, and beside it a spare one while a candidate may end the first.

The supervisor keeps the listening socket, so connections queue while a worker restarts. Workers are started from the
thread that calls :meth:`WorkerProcess.start`, which must live as long as the agent: the kernel ties a worker's life
to it.

A worker takes a third of a second to start. A plan with a candidate that is swapped in ``resident`` therefore starts a
second one, which loads the runtime, shuts itself in, and waits: :meth:`WorkerProcess.start` takes it where it is there.
It has no model, hears no application, and ends when a plan without a candidate is sent. Boards with ``cold`` swaps have
no memory to spare.
"""

import contextlib
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from device_agent.adapters.children.control_group import WorkerGroup
from device_agent.control_channel import ControlChannel
from device_agent.core.evidence.silence import Exertion
from device_agent.core.secret_names import without_secrets
from device_agent.core.serving import CapturePlan, Collect, Command, Died, ModelRef, Report, ServingPlan, Stop, Verify
from device_agent.core.settings.accelerator_settings import AcceleratorSettings
from device_agent.exertion import exertion_of
from device_agent.process_bounds import ACCELERATOR_VARIABLE, ONE_THREAD, rss_bytes

#: Signals that come from outside; a model does not send them to its own process.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOP_S = 5.0
#: The worker writes which bundle it loads or runs into memory that outlives it, and behind it whether it does so now.
_MARK_BYTES = 65
_SHA256 = re.compile("[0-9a-f]{64}")


class _Launched(NamedTuple):
    """A worker's process, and the supervisor's end of its control channel."""

    child: subprocess.Popen[bytes]
    channel: socket.socket

    def end(self) -> None:
        """End it, whatever it is at."""
        self.child.kill()
        self.child.wait()
        self.channel.close()


class WorkerProcess:
    """Starts, commands and watches one worker at a time.

    Beside its runtime a worker may read the files and folders that are ``readable``, and no others.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        readable: Sequence[str | Path],
        threads: int = 1,
        group: WorkerGroup | None = None,
        capture: CapturePlan | None = None,
        accelerator: AcceleratorSettings | None = None,
    ) -> None:
        self._listener = listener
        self._readable = [str(Path(path).absolute()) for path in readable]
        self._threads = threads
        self._group = group
        self._capture = capture
        self._accelerator = msgspec.json.encode(accelerator).decode() if accelerator else ""
        self._child: subprocess.Popen[bytes] | None = None
        self._spare: _Launched | None = None
        self._channel: ControlChannel | None = None
        self._killed_for: Died | None = None
        self._late: list[Report] = []
        self._mark = os.memfd_create("edgefleet-worker-mark", os.MFD_CLOEXEC)
        os.ftruncate(self._mark, mmap.PAGESIZE)
        weakref.finalize(self, os.close, self._mark)
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

    @property
    def spare_pid(self) -> int | None:
        """The process id of the spare worker, None while there is none."""
        return self._spare.child.pid if self._spare else None

    def start(self) -> None:
        """Start a worker if none runs; the spare one, if there is one."""
        if self._child is not None:
            return
        self._drop_dead_spare()
        os.pwrite(self._mark, bytes(_MARK_BYTES), 0)
        (self._child, channel), self._spare = self._spare or self._launch(), None
        if self._group is not None:  # not earlier: where memory runs out, the kernel ends all that is in there
            self._group.take_in(self._child.pid)
        channel.setblocking(False)
        self._killed_for = None
        self._channel = ControlChannel(channel)
        self._on_channel(channel)

    def _launch(self) -> _Launched:
        mine, its = socket.socketpair()
        passed = (self._listener.fileno(), its.fileno(), self._mark)
        arguments = [str(number) for number in (*passed, os.getpid(), self._threads)]
        with its:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "device_agent.worker.main", *arguments, *self._readable],
                pass_fds=passed,
                env=without_secrets(os.environ) | ONE_THREAD | {ACCELERATOR_VARIABLE: self._accelerator},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return _Launched(child, mine)

    def serve(self, plan: ServingPlan) -> None:
        """Ask for a plan to be put in force."""
        self._send(msgspec.structs.replace(plan, capture=self._capture))
        if self._channel is None:
            return  # it is sent again to the next worker, which may be the spare one
        if plan.tries and plan.swap == "resident":
            self._spare = self._spare or self._launch()
        else:
            self._drop_spare()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def _drop_dead_spare(self) -> None:
        if self._spare is not None and self._spare.child.poll() is not None:
            self._drop_spare()

    def verify(self, model: ModelRef) -> None:
        """Ask for a verification by fresh inferences."""
        self._send(Verify(model=model))

    def collect(self) -> None:
        """Ask for the counts since the last time."""
        self._send(Collect())

    def reports(self) -> list[Report]:
        """Return the reports since the last call; the end of the worker is the last of them."""
        self._drop_dead_spare()
        collected, self._late = self._late, []
        if self._channel is None:
            return collected
        while batch := self._channel.receive(Report):
            collected += batch
        if batch is None:
            collected.append(self._reap())
        return collected

    def kill(self, why: str, *, kind: Literal["hang", "unexplained"], during: str = "") -> None:
        """End a worker that does not answer; reported with this reason, the first that is given."""
        if self._child is not None and self._killed_for is None:
            at_work = during or self.at_work()
            self._killed_for = Died(kind=kind, detail=f"the worker was ended: it {why}", during=at_work)
            self._child.kill()

    def exertion(self, thread: int | None = None) -> Exertion | None:
        """Return what the worker, or one thread of it (0: the first), has done; None while none runs."""
        return exertion_of(self._child.pid, thread) if self._child else None

    def at_work(self) -> str:
        """Return the bundle that the worker loads or runs just now, or did when it ended."""
        page = os.pread(self._mark, _MARK_BYTES, 0)
        mark = page[:-1].decode("ascii", "replace")
        return mark if page[-1] and _SHA256.fullmatch(mark) else ""

    def stop(self) -> None:
        """Let the worker hand over its last counts and end, and end it if it does not."""
        self._drop_spare()
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
        killed = self._killed_for
        status = 0
        if child is not None:
            try:
                status = child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill("closed its control channel and did not end", kind="hang")
                killed = self._killed_for
                status = child.wait()
        self._forget()
        if self._group is not None and self._group.ran_out_of_memory():
            return Died(kind="crash", detail="the worker ran out of the memory of its control group")
        return killed or msgspec.structs.replace(_explain(status), during=self.at_work())

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
