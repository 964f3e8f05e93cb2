# SPDX-License-Identifier: Apache-2.0
"""A device that has booted and imported once what an agent imports, kept to start others from.

It is taken before the device's own disk is mounted, before anything asked for its boot id, and its randomness and clock
are set anew in every device that starts from it (``wake`` in :mod:`fleet_emulation.linux_devices.inside.control`).
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fleet_emulation.linux_devices.cache import Say, keep_newest, make_once, say_on_stderr
from fleet_emulation.linux_devices.initramfs import initramfs
from fleet_emulation.linux_devices.machine import (
    Hardware,
    Machine,
    Parts,
    boot,
    qemu_version,
    what_a_snapshot_depends_on,
)
from fleet_emulation.linux_devices.root_file_system import RootFileSystem

KIND = "snapshots"
#: The size of every device's own disk; the file is sparse.
DISK_BYTES = 1 << 30
_KEPT = 6
_WARM_UP = (
    "import numpy, ai_edge_litert.interpreter, cryptography.x509, msgspec, paho.mqtt.client, sqlite3, ssl, tuf.ngclient"
)
_WARM_UP_S = 120.0


@dataclass(frozen=True)
class Snapshot:
    """What is kept: the memory, the rest of the machine's state, and the RAM disk that it booted from."""

    folder: Path

    @property
    def ram(self) -> Path:
        """The memory."""
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        """All the rest."""
        return self.folder / "state"

    @property
    def initramfs(self) -> Path:
        """The initial RAM disk."""
        return self.folder / "initramfs"


def snapshot(root: RootFileSystem, hardware: Hardware, *, limit_s: float, say: Say = say_on_stderr) -> Snapshot:
    """Return the snapshot of a device with this hardware, taken now if there is none.

    Raises:
        UnreachableError: the device does not boot within ``limit_s``.
        MissingProgramError: QEMU is not installed.
    """
    ram_disk = initramfs(root)
    facts = [root.key, qemu_version(), *what_a_snapshot_depends_on(hardware), _WARM_UP]
    key = hashlib.sha256("\0".join(facts).encode() + ram_disk).hexdigest()[:24]

    def make(folder: Path) -> None:
        say(f"booting an arm64 device with a {hardware.cpu} and {hardware.memory_mib} MiB, once")
        (folder / "initramfs").write_bytes(ram_disk)
        with tempfile.TemporaryDirectory(prefix="ef-") as sockets:
            _take(root, hardware, folder, Path(sockets), limit_s)

    folder = make_once(KIND, key, make, say=say)
    keep_newest(KIND, count=_KEPT, besides=folder)
    return Snapshot(folder)


def _take(root: RootFileSystem, hardware: Hardware, folder: Path, sockets: Path, limit_s: float) -> None:
    parts = _parts(root, folder, sockets)
    with parts.disk.open("wb") as disk:
        disk.truncate(DISK_BYTES)
    machine = boot(f"an arm64 device with a {hardware.cpu}", hardware, parts)
    try:
        machine.wait_until_up(limit_s=limit_s)
        _warm_up(machine)
        machine.save(folder / "state")
    finally:
        machine.kill()
    for path in (parts.disk, parts.qemu_log, parts.console_log):
        path.unlink(missing_ok=True)


def _warm_up(machine: Machine) -> None:
    """Let the device read from its disk what every agent imports."""
    machine.control.ask("run", command=["/usr/bin/python3", "-c", _WARM_UP], limit_s=_WARM_UP_S)


def _parts(root: RootFileSystem, folder: Path, sockets: Path) -> Parts:
    return Parts(
        kernel=root.kernel,
        initramfs=folder / "initramfs",
        root=root.image,
        ram=folder / "ram",
        disk=folder / "disk",
        reachable=folder / "reachable",
        sockets=sockets,
        console_log=folder / "console.log",
        qemu_log=folder / "qemu.log",
    )
