# SPDX-License-Identifier: Apache-2.0
"""Looks at a device from all sides, beside a running agent and without changing anything.

Each part is examined for itself: one that cannot be examined is a finding, and never the end of the others.
"""

import os
import shutil
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from device_agent.adapters.identity.credentials import DEVICE_KEY
from device_agent.adapters.identity.data_folder import DataFolder, key_of
from device_agent.adapters.storage.state_file import read_record
from device_agent.core.findings import (
    PACKAGES,
    RUNTIMES,
    Finding,
    of_certificate,
    of_clock,
    of_disk,
    of_key,
    of_packages,
    of_python,
)
from device_agent.sandbox.confinement import available
from device_agent.settings import AgentSettings
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.files import read_regular

_CONNECT_S = 5.0
_CREDENTIAL_STORES = (Path("/etc/credstore.encrypted"), Path("/run/credstore.encrypted"))


def examine(folder: DataFolder, settings: AgentSettings, *, offline: bool) -> Iterator[Finding]:
    """Yield what is found, the system first and the network last; ``offline`` leaves the network out."""
    yield of_python(tuple(sys.version_info[:3]))
    yield from of_packages(_versions())
    yield from _kernel()
    if strange := folder.strange():  # to look into these, or to go on beside them, may last for ever
        for path in strange:
            said = f"'{path.name}' is a device or a pipe, expected a file"
            yield Finding("fail", "data folder", said, "restart the agent: it puts it aside")
        return
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("identity", lambda: _identity(folder)),
        ("key", lambda: _key(folder)),
        ("certificate", lambda: _dates(folder)),
        ("disk", lambda: _disk(folder, settings)),
        ("slots", lambda: _slots(folder)),
        ("state", lambda: _state(folder)),
        ("outbox", lambda: _outbox(folder)),
    ]
    if not offline:
        parts += [("server", lambda: _server(folder)), ("broker", lambda: _broker(folder, settings))]
    for name, look in parts:
        yield from _guarded(name, look)


def _guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except EdgeFleetError as error:
        yield Finding("fail", name, error.message, error.hint)
    except (OSError, ValueError, sqlite3.Error) as error:
        yield Finding("fail", name, f"cannot be examined: {error}", "run the doctor as the agent's own user")


def _versions() -> dict[str, str]:
    found = {}
    for name in (*PACKAGES, *RUNTIMES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _kernel() -> Iterator[Finding]:
    protection = available()
    for sentence in protection.missing:
        yield Finding("warn", "sandbox", sentence, "a newer kernel keeps a hostile model away; all else works without")
    if protection.whole:
        yield Finding("ok", "sandbox", f"Landlock {protection.landlock_version} and a filter of system calls")
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        yield Finding("ok", "control groups", "version 2")
    else:
        yield Finding(
            "warn",
            "control groups",
            "version 2 is not mounted: worker_memory_bytes has no effect",
            "boot with cgroup v2",
        )


def _identity(folder: DataFolder) -> Iterator[Finding]:
    identity = folder.read_identity()
    yield Finding("ok", "identity", f"{identity.device} of {identity.tenant}, {identity.profile}")


def _key(folder: DataFolder) -> Iterator[Finding]:
    own = folder.root / "identity" / "key.pem"
    sealed = any((store / DEVICE_KEY).exists() for store in _CREDENTIAL_STORES) or folder.key != own
    renewed = folder.certificate.exists() and key_of(folder.certificate, own) == folder.certificate
    places = [path for path, there in ((own, own.exists()), (folder.certificate, renewed)) if there]
    mode, lies_open = max((path.stat().st_mode for path in places), default=0), bool(places)
    yield of_key(mode=mode, sealed=sealed, lies_open=lies_open)


def _dates(folder: DataFolder) -> Iterator[Finding]:
    from cryptography.x509 import load_pem_x509_certificate  # the doctor's alone, and slow to load

    now = time.time()
    certificate = load_pem_x509_certificate(read_regular(folder.certificate))
    begins = certificate.not_valid_before_utc.timestamp()
    yield of_certificate(begins, certificate.not_valid_after_utc.timestamp(), now)
    seen = [begins, *(path.stat().st_mtime for path in folder.trust.rglob("*.json"))]
    yield of_clock(now, latest_seen=max(seen))


def _disk(folder: DataFolder, settings: AgentSettings) -> Iterator[Finding]:
    free = shutil.disk_usage(folder.root).free
    sizes = [path.stat().st_size for path in folder.slots.glob("*.bundle")]
    yield of_disk(free_bytes=free, reserve_bytes=settings.reserve_bytes, largest_slot_bytes=max(sizes, default=0))
    if not os.access(folder.root, os.W_OK):
        yield Finding("fail", "data folder", "cannot be written by this user", "run the doctor as the agent's own user")


def _slots(folder: DataFolder) -> Iterator[Finding]:
    paths = sorted(folder.slots.glob("*.bundle"))
    broken = [path.name for path in paths if sha256_file(path) != path.stem]
    for name in broken:
        yield Finding(
            "fail", "slots", f"{name} has changed on the disk", "replace the disk; the agent fetches it again"
        )
    if not broken:
        yield Finding("ok", "slots", f"{len(paths)} bundles, each with its hash")


def _state(folder: DataFolder) -> Iterator[Finding]:
    record = read_record(folder.state)
    yield Finding("ok", "state", record.status if record else "nothing is remembered yet")
    for aside in sorted(folder.root.glob("*.damaged*")):
        yield Finding(
            "warn", "state", f"'{aside.name}' was set aside as damaged", "suspect the disk; then delete the file"
        )


def _outbox(folder: DataFolder) -> Iterator[Finding]:
    if not folder.outbox.exists():
        yield Finding("ok", "outbox", "is not there yet")
        return
    with closing(sqlite3.connect(f"{folder.outbox.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as database:
        (told,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if told != "ok":
        yield Finding("fail", "outbox", f"is damaged: {told}", "restart the agent: it sets the file aside")
    else:
        yield Finding("ok", "outbox", f"{folder.outbox.stat().st_size >> 10} KiB")


def _server(folder: DataFolder) -> Iterator[Finding]:
    url = urlsplit(folder.read_identity().server_url)
    yield _connection("server", url.hostname or "", url.port or 443, folder, tls=True)


def _broker(folder: DataFolder, settings: AgentSettings) -> Iterator[Finding]:
    broker = settings.broker or folder.read_identity().broker
    if broker is None:
        yield Finding("ok", "broker", "there is none: the device polls")
        return
    yield _connection("broker", broker.host, broker.port, folder, tls=broker.tls)


def _connection(name: str, host: str, port: int, folder: DataFolder, *, tls: bool) -> Finding:
    """Connect, and show the device's certificate where that is asked for."""
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), _CONNECT_S) as connection:
            if tls:
                context = ssl.create_default_context(cafile=str(folder.ca))
                context.load_cert_chain(folder.certificate, key_of(folder.certificate, folder.key))
                context.wrap_socket(connection, server_hostname=host).close()
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        return Finding(
            "fail", name, f"{host}:{port} does not answer: {reason}", "check the network, the name and the port"
        )
    return Finding("ok", name, f"{host}:{port} answers in {1e3 * (time.monotonic() - began):.0f} ms")
