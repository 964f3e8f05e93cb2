# SPDX-License-Identifier: Apache-2.0
"""One device's agent in the field: its processes, its signals, its loop.

The worker is started before anything heavy is imported here: it loads the runtime while this process loads the rest.
"""

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from device_agent.adapters.children.control_group import NoControlGroupError, WorkerGroup, worker_group
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.proxy import tell_proxy
from device_agent.adapters.system.local_socket import listen, lock
from device_agent.adapters.system.own_health import OwnHealth, of_this_process
from device_agent.adapters.system.service_manager import ServiceManager
from device_agent.core.heartbeat import Heartbeat
from device_agent.core.serving import CapturePlan
from device_agent.settings import AgentSettings
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.messages import Event

if TYPE_CHECKING:
    from device_agent.adapters.verification.inbox import Inbox
    from device_agent.agent import Agent

_LOG = logging.getLogger("edgefleet.agent")
#: One for metadata, so that polls go on during a download or an admission, one for these, and one for upkeep.
_BACKGROUND_THREADS = 3


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
    folder.mend()
    folder.read_identity()
    settings = options.settings
    tell_proxy(settings.proxy, settings.proxy_credentials)
    if options.poll_s is not None:
        settings = msgspec.structs.replace(settings, poll_s=options.poll_s * options.time_scale)
    lock(folder.lock)
    path = Path(settings.socket) if settings.socket else folder.socket
    listener = listen(path)
    group = _control_group(settings.worker_memory_bytes)
    readable = [str(folder.slots), *([settings.factory_model] if settings.factory_model else [])]
    inference = WorkerProcess(
        listener,
        readable=readable,
        threads=settings.threads,
        group=group,
        capture=_capture_plan(settings),
        accelerator=settings.accelerator,
    )
    with suppress(OSError):  # said by whatever needs it
        folder.slots.mkdir(exist_ok=True)  # a worker that shuts itself in can never read a folder that came later
    inference.start()  # first of all: it imports the runtime while this process imports the rest
    try:
        _run_with(folder, settings, options, inference, lambda: ready(_ready_line(path)))
    finally:
        inference.stop()
        path.unlink(missing_ok=True)


def _control_group(memory_bytes: int) -> WorkerGroup | None:
    """Return the worker's control group; where there can be none, the log says so if a limit was asked for."""
    try:
        return worker_group(memory_bytes=memory_bytes)
    except NoControlGroupError as error:
        if memory_bytes:
            _LOG.warning("the worker's memory has no limit: %s; %s", error.message, error.hint)
        return None


def _capture_plan(settings: AgentSettings) -> CapturePlan | None:
    if settings.capture is None or not settings.capture_bytes:
        return None
    return CapturePlan(confidence_below=settings.capture.confidence_below, share=settings.capture.share)


def _ready_line(path: Path) -> str:
    return msgspec.json.encode({"socket": str(path), "pid": os.getpid()}).decode()


def _run_with(
    folder: DataFolder,
    settings: AgentSettings,
    options: RunOptions,
    inference: WorkerProcess,
    ready: Callable[[], None],
) -> None:
    from device_agent.adapters.children.admission_process import AdmissionProcess
    from device_agent.adapters.children.background import BackgroundExecutor
    from device_agent.adapters.children.repositories_process import RepositoriesProcess
    from device_agent.adapters.children.upkeep_process import UpkeepProcess
    from device_agent.adapters.network.mqtt_pump import MqttPump
    from device_agent.adapters.system.own_software import OwnSoftware
    from device_agent.adapters.verification.inbox import Inbox
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
            upkeep=UpkeepProcess(folder),
            software=OwnSoftware(folder.root, os.environ),
            time_scale=options.time_scale,
        )
        manager = ServiceManager(os.environ, pid=os.getpid())
        health = of_this_process(time.monotonic(), time_scale=options.time_scale)
        inbox = Inbox(folder.root)
        loop = _Loop(agent, manager, health, inbox, silence_s=settings.watchdog_s, reap=repositories.reap)
        inference.watch(loop.watch_worker)
        happened = health.happened()
        _tell_of_launch(agent, happened, health.running)
        agent.start()
        agent.software.started(happened)
        ready()
        manager.ready()
        loop.run()
        manager.stopping()
        agent.stop()
        health.stopped()
    finally:
        repositories.close()
        pump.stop()


def _tell_of_launch(agent: "Agent", happened: str, running: str) -> None:
    """Store what the launcher did at this start as an event; sent with those of the agent's own start."""
    if not happened:
        return
    event = Event(kind="agent-started", cause=happened, detail=f"wheel set {running or 'of the system'}")
    with suppress(StorageError):  # what the launcher did stands in its record, too
        agent.ports.outbox.append(event, created_at=agent.ports.clock.wall())


class _Loop:
    """Calls the agent's tick when something happens: a report of the worker, a wake-up, a signal, or time.

    ``reap`` is called as often, for a child may just have ended; and the service manager hears that the loop turns.
    """

    def __init__(
        self,
        agent: "Agent",
        manager: ServiceManager,
        health: OwnHealth,
        inbox: "Inbox",
        *,
        silence_s: float,
        reap: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._manager = manager
        self._health = health
        self._inbox = inbox
        self._known_update = inbox.stamp
        self._heartbeat = Heartbeat(watchdog_s=manager.watchdog_s, silence_s=silence_s)
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
        self._heartbeat.worker(time.monotonic(), present=channel is not None)
        if channel is None:
            self._health.worker_ended(time.monotonic())

    def run(self) -> None:
        """Tick until a signal says stop, or other software of the agent's own is due."""
        while self._running and not self._agent.software.restart_due:
            wait_s = self._agent.tick()
            self._reap()
            self._look_at_inbox()
            self._tell_manager()
            for key, _ in self._selector.select(self._heartbeat.wait_s(time.monotonic(), wait_s)):
                if key.fileobj is self._wake_in:
                    self._drain()
                else:
                    self._heartbeat.heard(time.monotonic())

    def _look_at_inbox(self) -> None:
        """Check the repositories at once when somebody brought an update."""
        stamp, known = self._inbox.stamp, self._known_update
        self._known_update = stamp
        if stamp not in (0, known):
            self._agent.polling.soon()

    def _tell_manager(self) -> None:
        now = time.monotonic()
        if self._heartbeat.beats(now):
            self._manager.alive()
        heard = self._agent.polling.order is not None
        if self._health.step(now, hung=self._heartbeat.hung(now), heard_from_server=heard):
            self._agent.software.proved()
        self._manager.status(_headline(self._agent))

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


def _headline(agent: "Agent") -> str:
    """Say in one line what the device is at."""
    running = agent.state(connected=True).running
    answers = f"{running.name} {running.version} answers" if running else "no model answers"
    return f"{agent.status}; {answers}"
