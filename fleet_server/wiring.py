# SPDX-License-Identifier: Apache-2.0
"""Put a server together, run it, and take it apart again."""

import asyncio
import logging
import signal
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import msgspec
import uvicorn

from edgefleet.contracts.errors import EdgeFleetError, SettingError
from fleet_server.adapters.access.listeners import listen, parse_address, require_loopback
from fleet_server.adapters.devices.check_ins import CheckIns
from fleet_server.adapters.devices.device_certificates import DeviceCertificates
from fleet_server.adapters.devices.device_register import DeviceRegister
from fleet_server.adapters.devices.director import Director
from fleet_server.adapters.devices.order_store import Hinted
from fleet_server.adapters.devices.poll_times import PollTimes
from fleet_server.adapters.devices.quarantines import Quarantines
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.releases.approval_desk import ApprovalDesk
from fleet_server.adapters.releases.image_repository import ImageRepository
from fleet_server.adapters.releases.release_store import ReleaseStore
from fleet_server.adapters.releases.update_export import UpdateExport
from fleet_server.adapters.rollouts.rollout_engine import RolloutEngine
from fleet_server.adapters.storage.data_folder import DataFolder, Listening
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.private_files import write_file
from fleet_server.adapters.telemetry.capture_store import CaptureStore
from fleet_server.adapters.telemetry.mqtt_link import MqttLink, parse_broker
from fleet_server.adapters.telemetry.telemetry_store import TelemetryStore
from fleet_server.api.device_path import create_device_app
from fleet_server.api.management import create_management_app
from fleet_server.api.parts import ServerParts
from fleet_server.api.tls_protocol import PeerCertificateProtocol

_LOG = logging.getLogger(__name__)
_STEP_EVERY_S = 1.0
_QUICKEST_STEP_S = 0.25
_UPKEEP_EVERY_S = 5.0
_GRACE_S = 1


@dataclass(frozen=True)
class RunOptions:
    """How to run a server; ``time_scale`` divides the policy's durations, for emulation only.

    ``captures_bytes`` bounds what devices may upload of captured inputs; 0: nothing.
    """

    data: Path
    listen: str = "127.0.0.1:8080"
    device_listen: str = "127.0.0.1:8443"
    broker: str | None = None
    time_scale: float = 1.0
    captures_bytes: int = 0


def run_server(options: RunOptions) -> None:
    """Run a server until SIGTERM or SIGINT; prints one line of JSON on standard output when it is ready.

    Raises:
        PortInUseError, NotAllowedError, SettingError: an address cannot be used; nothing was started.
        ConflictError: another server runs on the folder.
        SettingError, StorageError: the folder's certificates or database are damaged.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("alembic", "tuf", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    host, port = parse_address(options.listen)
    require_loopback(host)
    device_address = parse_address(options.device_listen)
    folder = DataFolder(options.data)
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        management = stack.enter_context(listen(host, port))
        devices = stack.enter_context(listen(*device_address))
        parts = stack.enter_context(_open_parts(folder, options))
        listening = _addresses(folder, management, devices)
        parts.device_url = listening.device
        stack.enter_context(_background(parts, options.time_scale))
        asyncio.run(_serve(parts, management, devices, listening))


@contextmanager
def _open_parts(folder: DataFolder, options: RunOptions) -> Iterator[ServerParts]:
    settings = folder.settings()
    broker = parse_broker(options.broker) if options.broker else None
    database = Database(folder.database_path)
    database.migrate()
    signer = SignerProcess(folder.signer, time_scale=options.time_scale)
    clock = time.time
    images = ImageRepository(database, folder.targets, signer, clock)
    director = Director(database, signer, clock)
    releases = ReleaseStore(database, images, folder.staging, clock)
    telemetry = TelemetryStore(database, settings.tenant, clock)
    link = MqttLink(broker, folder.broker_tls(), settings.tenant, telemetry) if broker else None

    def hint(hinted: Sequence[Hinted]) -> None:
        if link is not None:
            link.send_hints(hinted)

    parts = ServerParts(
        folder=folder,
        settings=settings,
        database=database,
        signer=signer,
        images=images,
        releases=releases,
        approvals=ApprovalDesk(database, images, releases, clock),
        devices=DeviceRegister(database, signer, clock),
        certificates=DeviceCertificates(
            database, signer, clock, tenant=settings.tenant, authority_pem=folder.device_authority_pem()
        ),
        check_ins=CheckIns(database, clock),
        director=director,
        exports=UpdateExport(database, images, director, folder.targets, clock, tenant=settings.tenant),
        engine=RolloutEngine(database, releases, signer, clock, time_scale=options.time_scale, hint=hint),
        quarantines=Quarantines(database, clock, hint=hint),
        telemetry=telemetry,
        polls=PollTimes(database),
        captures=CaptureStore(folder.captures, limit_bytes=options.captures_bytes),
        clock=clock,
        broker=broker,
        link=link,
    )
    try:
        yield parts
    finally:
        signer.close()
        database.close()


def _addresses(folder: DataFolder, management: socket, devices: socket) -> Listening:
    host, port = management.getsockname()[:2]
    device_host, device_port = devices.getsockname()[:2]
    public = folder.settings().hosts[0] if device_host in ("0.0.0.0", "::") else device_host  # noqa: S104 - compared only
    return Listening(api=f"http://{_bracketed(host)}:{port}", device=f"https://{_bracketed(public)}:{device_port}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _background(parts: ServerParts, time_scale: float) -> Iterator[None]:
    """Finish what a crash cut off, then step rollouts, keep metadata fresh and take device messages in."""
    parts.approvals.finish_approvals()
    parts.images.publish_if_due()
    stop = threading.Event()
    every_s = max(_QUICKEST_STEP_S, _STEP_EVERY_S / time_scale)
    threads = [
        threading.Thread(target=parts.engine.run, args=(stop,), kwargs={"every_s": every_s}, name="rollout-engine"),
        threading.Thread(target=_keep_fresh, args=(parts, stop), name="upkeep"),
    ]
    for thread in threads:
        thread.start()
    if parts.link is not None:
        parts.link.start()
    try:
        yield
    finally:
        stop.set()
        if parts.link is not None:
            parts.link.close()
        for thread in threads:
            thread.join()
        parts.polls.flush()


def _keep_fresh(parts: ServerParts, stop: threading.Event) -> None:
    while not stop.wait(_UPKEEP_EVERY_S):
        try:
            parts.images.publish_if_due()
            parts.polls.flush()
            parts.engine.remind()
        except EdgeFleetError as error:
            _LOG.error("upkeep failed and will be tried again: %s", error)


class _QuietServer(uvicorn.Server):
    """A uvicorn server that leaves signals to us, because there are two of it in one process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(parts: ServerParts, management: socket, devices: socket, listening: Listening) -> None:
    servers = [
        (_QuietServer(_config(create_management_app(parts))), management),
        (_QuietServer(_device_config(parts)), devices),
    ]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server, _ in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    tasks = [asyncio.create_task(server.serve(sockets=[made])) for server, made in servers]
    while not all(server.started for server, _ in servers):
        if any(task.done() for task in tasks):
            break
        await asyncio.sleep(0.01)
    else:
        _announce(parts, listening)
    await asyncio.gather(*tasks)


def _announce(parts: ServerParts, listening: Listening) -> None:
    line = msgspec.json.encode(listening)
    write_file(parts.folder.listening_path, line, mode=0o600)
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()


def _config(app: Any, **settings: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        **settings,
    )


def _device_config(parts: ServerParts) -> uvicorn.Config:
    tls = parts.folder.tls
    config = _config(
        create_device_app(parts),
        http=PeerCertificateProtocol,
        ssl_certfile=str(tls / "server.crt"),
        ssl_keyfile=str(tls / "server.key"),
        ssl_ca_certs=str(tls / "device-authority.crt"),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,  # enrolment comes before the certificate
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise SettingError(
            f"the certificates and keys in '{tls}' cannot be used: {error.strerror or error}",
            hint="restore them from a backup",
        ) from error
    return config
