# SPDX-License-Identifier: Apache-2.0
"""One device's agent in the field: its processes, its signals, its loop.

The worker is started before anything heavy is imported here: it loads the runtime while this process loads the rest.
"""

import os
import selectors
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from device_agent.adapters.identity import DataFolder
from device_agent.adapters.local_socket import listen, lock
from device_agent.adapters.worker_process import WorkerProcess
from device_agent.settings import AgentSettings

if TYPE_CHECKING:
    from device_agent.agent import Agent

#: One for metadata, so that polls go on during a download or an admission, and one for these.
_BACKGROUND_THREADS = 2


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about a run; ``poll_s`` is in real seconds and goes before the settings'."""

    data: Path
    settings: AgentSettings
    time_scale: float = 1.0
    poll_s: float | None = None


def run(options: RunOptions, ready: Callable[[str], None]) -> None:
    """Run one device's agent until SIGTERM or SIGINT; ``ready`` gets one line of JSON when applications can connect.

    Raises:
        EdgeFleetError: the agent cannot start.
    """
    folder = DataFolder(options.data.resolve())
    folder.read_identity()
    settings = options.settings
    if options.poll_s is not None:
        settings = msgspec.structs.replace(settings, poll_s=options.poll_s * options.time_scale)
    lock(folder.lock)
    path = Path(settings.socket) if settings.socket else folder.socket
    listener = listen(path)
    inference = WorkerProcess(listener, threads=settings.threads)
    inference.start()  # first of all: it imports the runtime while this process imports the rest
    try:
        _run_with(folder, settings, options, inference, lambda: ready(_ready_line(path)))
    finally:
        inference.stop()
        path.unlink(missing_ok=True)


def _ready_line(path: Path) -> str:
    return msgspec.json.encode({"socket": str(path), "pid": os.getpid()}).decode()


def _run_with(
    folder: DataFolder,
    settings: AgentSettings,
    options: RunOptions,
    inference: WorkerProcess,
    ready: Callable[[], None],
) -> None:
    from device_agent.adapters.admission_process import AdmissionProcess
    from device_agent.adapters.background import BackgroundExecutor
    from device_agent.adapters.mqtt import MqttPump
    from device_agent.adapters.repositories_process import RepositoriesProcess
    from device_agent.wiring import assemble

    pump = MqttPump()
    repositories = RepositoriesProcess(folder, reserve_bytes=settings.reserve_bytes)
    try:
        agent = assemble(
            folder,
            settings,
            inference=inference,
            repositories=repositories,
            admission=AdmissionProcess(deadline_s=settings.admission_deadline_s),
            executor=BackgroundExecutor(_BACKGROUND_THREADS),
            pump=pump,
            time_scale=options.time_scale,
        )
        loop = _Loop(agent, reap=repositories.reap)
        inference.watch(loop.watch_worker)
        agent.start()
        ready()
        loop.run()
        agent.stop()
    finally:
        repositories.close()
        pump.stop()


class _Loop:
    """Calls the agent's tick when something happens: a report of the worker, a wake-up, a signal, or time.

    ``reap`` is called as often, for a child may just have ended.
    """

    def __init__(self, agent: "Agent", *, reap: Callable[[], None]) -> None:
        self._agent = agent
        self._reap = reap
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._worker: socket.socket | None = None
        self._running = True
        agent.wake = self._wake
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes the loop below, as every handled signal
        signal.set_wakeup_fd(self._wake_out.fileno(), warn_on_full_buffer=False)

    def watch_worker(self, channel: socket.socket | None) -> None:
        """Select on the control channel of the present worker."""
        if self._worker is not None:
            self._selector.unregister(self._worker)
        if channel is not None:
            self._selector.register(channel, selectors.EVENT_READ)
        self._worker = channel

    def run(self) -> None:
        """Tick until a signal says stop."""
        while self._running:
            wait_s = self._agent.tick()
            self._reap()
            for key, _ in self._selector.select(wait_s):
                if key.fileobj is self._wake_in:
                    self._drain()

    def _drain(self) -> None:
        try:
            while self._wake_in.recv(4096):
                pass
        except BlockingIOError:
            return

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            return  # full: it is awake already

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._running = False
