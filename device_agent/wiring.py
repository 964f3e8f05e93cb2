# SPDX-License-Identifier: Apache-2.0
"""Putting an agent together: in the field with processes of its own, in a simulation inside a shared one."""

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.storage.capture_folder import CaptureFolder
from device_agent.adapters.storage.holds import HoldFolder
from device_agent.adapters.storage.labels_file import LabelsFile
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.slots import SlotFolder
from device_agent.adapters.storage.state_file import StateFile
from device_agent.adapters.system.software import installed_software
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.agent import Agent
from device_agent.core.identity import Identity
from device_agent.core.serving import ModelRef
from device_agent.ports import Admission, Clock, Inference, Messenger, OwnSoftware, Ports, Repositories, Upkeep
from device_agent.settings import AgentSettings
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import RunningRelease

if TYPE_CHECKING:
    from device_agent.adapters.network.mqtt_pump import MqttPump

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
    repositories: Repositories,
    admission: Admission,
    executor: Executor,
    pump: "MqttPump | None" = None,
    messenger: Messenger | None = None,
    upkeep: Upkeep | None = None,
    software: OwnSoftware | None = None,
    time_scale: float = 1.0,
    clock: Clock | None = None,
    random_share: Callable[[], float] = random.random,
) -> Agent:
    """Build one enrolled device's agent over its data folder; the caller calls ``start``, ``tick`` and ``stop``.

    ``inference``, ``repositories``, ``admission``, ``executor`` and ``pump`` may be shared or in-process ones; without
    a pump the device has no broker, unless a ``messenger`` stands in for one; without ``upkeep`` its certificate is not
    renewed, and without ``software`` it takes no other of its own.

    Raises:
        FileMissingError: the folder holds no enrolled device.
        StorageError: a database cannot be opened.
    """
    folder.mend()
    identity = folder.read_identity()
    messenger = messenger or _messenger(folder, identity, settings, pump, random_share)
    ports = Ports(
        clock=clock or SystemClock(),
        state=StateFile(folder.state),
        slots=SlotFolder(folder.slots),
        outbox=OutboxFile(
            folder.outbox,
            identity.device,
            limit_bytes=settings.outbox_bytes,
            limit_s=settings.outbox_age_s / time_scale,
            keep_s=settings.outbox_keep_acknowledged_s / time_scale,
        ),
        messenger=messenger,
        inference=inference,
        repositories=repositories,
        admission=admission,
        holds=HoldFolder(folder.holds),
        executor=executor,
        random=random_share,
        boot_id=boot_id(),
        captures=_captures(folder, settings),
        upkeep=upkeep,
        software=software,
        labels=LabelsFile(folder.labels),
    )
    agent = Agent(
        identity,
        settings,
        ports,
        software=installed_software(),
        time_scale=time_scale,
        factory=_factory(settings),
    )
    messenger.on_news = lambda: agent.wake()
    return agent


def _messenger(
    folder: DataFolder,
    identity: Identity,
    settings: AgentSettings,
    pump: "MqttPump | None",
    random_share: Callable[[], float],
) -> Messenger:
    from device_agent.adapters.network.mqtt import MqttChannel, NoBroker, TlsFiles

    broker = settings.broker or identity.broker
    if pump is None or broker is None:
        return NoBroker()
    bound = partial(known_time, folder.trust)
    tls = TlsFiles(folder.ca, folder.certificate, folder.key, bound) if broker.tls else None
    return MqttChannel(
        pump, tenant=identity.tenant, device=identity.device, broker=broker, tls=tls, random=random_share
    )


def _captures(folder: DataFolder, settings: AgentSettings) -> CaptureFolder | None:
    if settings.capture is None or not settings.capture_bytes:
        return None
    return CaptureFolder(
        folder.captures,
        limit_bytes=settings.capture_bytes,
        bytes_per_day=settings.capture.bytes_per_day,
        redaction=settings.capture.redaction,
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
