# SPDX-License-Identifier: Apache-2.0
"""Putting an agent together: in the field with processes of its own, in a simulation inside a shared one."""

import logging
import os
import random
import selectors
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from device_agent.adapters.admission_process import AdmissionProcess
from device_agent.adapters.identity import DataFolder
from device_agent.adapters.local_socket import listen, lock
from device_agent.adapters.outbox_file import OutboxFile
from device_agent.adapters.slots import SlotFolder
from device_agent.adapters.state_file import StateFile
from device_agent.adapters.worker_process import WorkerProcess
from device_agent.agent import Agent
from device_agent.core.identity import Identity
from device_agent.core.serving import ModelRef
from device_agent.ports import Admission, Clock, Inference, Messenger, Ports
from device_agent.settings import AgentSettings
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import RunningRelease

if TYPE_CHECKING:
    from device_agent.adapters.mqtt import MqttPump

_LOG = logging.getLogger("edgefleet.agent")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since the machine started."""
        return time.monotonic()


def assemble(
    folder: DataFolder,
    settings: AgentSettings,
    *,
    inference: Inference,
    admission: Admission,
    executor: Executor,
    pump: "MqttPump | None" = None,
    time_scale: float = 1.0,
    clock: Clock | None = None,
    random_share: Callable[[], float] = random.random,
) -> Agent:
    """Build one enrolled device's agent over its data folder; the caller calls ``start``, ``tick`` and ``stop``.

    ``inference``, ``admission``, ``executor`` and ``pump`` may be shared or in-process ones; without a pump the
    device has no broker.

    Raises:
        FileMissingError: the folder holds no enrolled device.
        StorageError: a database cannot be opened.
    """
    from device_agent.adapters.download import BundleDownloads
    from device_agent.adapters.https import ServerConnection
    from device_agent.adapters.trust import TufTrust

    identity = folder.read_identity()
    connection = ServerConnection(identity.server_url, ca=folder.ca, certificate=folder.certificate, key=folder.key)
    messenger = _messenger(folder, identity, settings, pump, random_share)
    ports = Ports(
        clock=clock or SystemClock(),
        state=StateFile(folder.state),
        slots=SlotFolder(folder.slots),
        outbox=OutboxFile(folder.outbox, identity.device, limit_bytes=settings.outbox_bytes),
        messenger=messenger,
        inference=inference,
        trust=TufTrust(folder, identity, connection),
        downloads=BundleDownloads(folder.downloads, connection, reserve_bytes=settings.reserve_bytes),
        admission=admission,
        executor=executor,
        random=random_share,
        boot_id=boot_id(),
    )
    agent = Agent(
        identity,
        settings,
        ports,
        agent_version=agent_version(),
        time_scale=time_scale,
        factory=_factory(settings),
    )
    if hasattr(messenger, "on_news"):
        messenger.on_news = lambda: agent.wake()
    return agent


def _messenger(
    folder: DataFolder,
    identity: Identity,
    settings: AgentSettings,
    pump: "MqttPump | None",
    random_share: Callable[[], float],
) -> Messenger:
    from device_agent.adapters.mqtt import MqttChannel, NoBroker, TlsFiles

    broker = settings.broker or identity.broker
    if pump is None or broker is None:
        return NoBroker()
    tls = TlsFiles(folder.ca, folder.certificate, folder.key) if broker.tls else None
    return MqttChannel(
        pump, tenant=identity.tenant, device=identity.device, broker=broker, tls=tls, random=random_share
    )


def _factory(settings: AgentSettings) -> ModelRef | None:
    """Return the factory model; one that cannot be read is named in the log, and then there is none."""
    if settings.factory_model is None:
        return None
    try:
        bundle = open_bundle(Path(settings.factory_model))
    except EdgeFleetError as error:
        _LOG.warning("the factory model cannot be used: %s", error)
        return None
    manifest = bundle.manifest
    release = RunningRelease(name=manifest.name, version=manifest.version, bundle_sha256=bundle.sha256)
    return ModelRef(path=settings.factory_model, release=release)


def boot_id() -> str:
    """Return the running kernel's boot id, which tells a reboot from a crash."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def agent_version() -> str:
    """Return this distribution's version."""
    try:
        return version("edgefleet")
    except PackageNotFoundError:
        return "0"


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
    from device_agent.adapters.mqtt import MqttPump

    pump = MqttPump()
    executor = ThreadPoolExecutor(2, thread_name_prefix="agent")
    try:
        agent = assemble(
            folder,
            settings,
            inference=inference,
            admission=AdmissionProcess(deadline_s=settings.admission_deadline_s),
            executor=executor,
            pump=pump,
            time_scale=options.time_scale,
        )
        loop = _Loop(agent)
        inference.watch(loop.watch_worker)
        agent.start()
        ready()
        loop.run()
        agent.stop()
    finally:
        pump.stop()
        executor.shutdown(wait=False, cancel_futures=True)


class _Loop:
    """Calls the agent's tick when something happens: a report of the worker, a wake-up, a signal, or time."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
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
