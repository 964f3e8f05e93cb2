# SPDX-License-Identifier: Apache-2.0
"""What support wants to know of a device, read without touching its agent; what cannot be read says why.

Every part is a function that may fail by itself: the file is wanted most where something is broken.
"""

import hashlib
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.storage.state_file import read_record
from device_agent.settings import read_settings
from edgefleet.contracts.files import open_regular, read_regular
from edgefleet.version import __version__

_PACKAGES = ("ai-edge-litert", "cryptography", "msgspec", "numpy", "paho-mqtt", "tflite-runtime", "tuf", "urllib3")
_MESSAGES = 500
_LOG_BYTES = 256 << 10
_READ_BYTES = 1 << 20
_JOURNAL = ("journalctl", "--unit", "edgefleet-agent", "--lines", "2000", "--no-pager", "--output", "short-iso")


def diagnosis(root: Path, config: Path | None) -> dict[str, bytes]:
    """Return the files of the diagnosis by name, secrets still in them."""
    folder = DataFolder(root)
    parts: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "settings": lambda: msgspec.to_builtins(read_settings(config)),
        "identity": lambda: msgspec.to_builtins(folder.read_identity()),
        "state": lambda: msgspec.to_builtins(read_record(folder.state)),
        "messages": lambda: _messages(folder.outbox),
        "slots": lambda: _slots(folder.slots),
        "certificates": lambda: _certificates((folder.certificate, folder.ca)),
        "metadata": lambda: list(_metadata(folder.trust)),
        "system": lambda: _system(root),
        "files": lambda: list(_listing(root)),
    }
    files = {f"{name}.json": msgspec.json.format(_encoded(_tried(part))) for name, part in parts.items()}
    logs = {f"logs/{path.name}": _tail(path) for path in sorted(root.glob("*.log")) if path.is_file()}
    journal = _journal()
    return files | logs | ({"logs/journal.txt": journal} if journal else {})


def _tried(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except Exception as error:  # noqa: BLE001 - whatever is broken, the rest is wanted, and this is what to look at
        return {"unreadable": f"{type(error).__name__}: {error}"}


def _encoded(document: Any) -> bytes:
    return msgspec.json.encode(document, enc_hook=str)


def _versions() -> dict[str, str]:
    found = {"edgefleet": __version__, "python": sys.version, "sqlite": sqlite3.sqlite_version}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _messages(path: Path) -> dict[str, Any]:
    """Return how the outbox is, and its newest messages but for telemetry."""
    open_regular(path).close()  # of a pipe SQLite would wait for ever
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as database:
        database.execute("PRAGMA query_only = ON")
        database.execute("BEGIN")  # one moment, whatever the agent appends meanwhile
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        facts = {
            name: database.execute(f"SELECT * FROM {name} LIMIT 5").fetchall()  # noqa: S608 - of a list of ours
            for name in ("outbox", "upkeep")
            if name in tables
        }
        rows = database.execute("SELECT data FROM message ORDER BY sequence DESC LIMIT ?", (_MESSAGES,)).fetchall()
        count = database.execute("SELECT count(*), sum(size_bytes) FROM message").fetchone()
    newest = [msgspec.json.decode(data) for (data,) in rows]
    events = [message for message in newest if message.get("body", {}).get("type") != "telemetry"]
    return {**facts, "count": count[0], "size_bytes": count[1], "newest": events}


def _slots(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.iterdir()):
        facts: dict[str, Any] = {"name": path.name, "size_bytes": path.stat().st_size}
        if not path.is_file():  # opening a pipe would wait for ever
            facts["kind"] = "no file"
        elif path.suffix == ".bundle":
            with path.open("rb") as file:
                facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            facts["intact"] = facts["sha256"] == path.stem
        elif facts["size_bytes"] <= _READ_BYTES:
            facts["text"] = path.read_text(errors="replace")
        found.append(facts)
    return found


def _certificates(paths: tuple[Path, ...]) -> dict[str, Any]:
    return {path.name: _tried(lambda path=path: [_certificate(one) for one in _loaded(path)]) for path in paths}  # type: ignore[misc]


def _loaded(path: Path) -> list[Any]:
    from cryptography import x509

    return list(x509.load_pem_x509_certificates(read_regular(path)))


def _certificate(certificate: Any) -> dict[str, str]:
    from cryptography.hazmat.primitives import hashes

    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "from": certificate.not_valid_before_utc.isoformat(),
        "until": certificate.not_valid_after_utc.isoformat(),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def _metadata(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.json")):
        yield {"path": str(path.relative_to(folder)), **_tried(lambda path=path: _signed(path))}  # type: ignore[misc]


def _signed(path: Path) -> dict[str, Any]:
    signed = msgspec.json.decode(read_regular(path))["signed"]
    return {name: signed.get(name) for name in ("_type", "version", "expires")}


def _system(root: Path) -> dict[str, Any]:
    from device_agent.adapters.system.hardware import hardware_facts
    from device_agent.sandbox.confinement import available

    disk, node = shutil.disk_usage(root), os.statvfs(root)
    return {
        "kernel": platform.uname()._asdict(),
        "hardware": _tried(lambda: msgspec.to_builtins(hardware_facts())),
        "sandbox": _tried(lambda: str(available())),
        "memory": _tried(lambda: Path("/proc/meminfo").read_text().splitlines()[:5]),
        "pressure": _tried(lambda: Path("/proc/pressure/memory").read_text()),
        "uptime": _tried(lambda: Path("/proc/uptime").read_text()),
        "load": os.getloadavg(),
        "disk": {"total_bytes": disk.total, "free_bytes": disk.free, "free_inodes": node.f_favail},
        "mounts": _tried(lambda: _mounts_of(root)),
    }


def _mounts_of(root: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if str(root.resolve()).startswith(line.split()[1])]


def _listing(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        yield {
            "path": str(path.relative_to(root)),
            "mode": oct(facts.st_mode),
            "owner": facts.st_uid,
            "size_bytes": facts.st_size,
            "changed_at": facts.st_mtime,
        }


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _LOG_BYTES, 0))
            return file.read(_LOG_BYTES)
    except OSError as error:
        return f"unreadable: {error}\n".encode()


def _journal() -> bytes:
    """Return the unit's log where systemd keeps one."""
    if shutil.which(_JOURNAL[0]) is None:
        return b""
    try:
        done = subprocess.run(_JOURNAL, capture_output=True, timeout=20.0, check=False)
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout[-_LOG_BYTES:]
