# SPDX-License-Identifier: Apache-2.0
"""The initial RAM disk of a device: drivers, a shell, and what :mod:`fleet_emulation.linux_devices.inside` holds.

Format: cpio "newc", as the kernel's documentation has it (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import stat
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

from fleet_emulation.linux_devices.root_file_system import RootFileSystem

_FOLDERS = ("bin", "dev", "sys", "root", "modules", "inside")
_INSIDE = ("serve.sh", "control.py")
_FOLDER = stat.S_IFDIR | 0o755
_PROGRAM = stat.S_IFREG | 0o755
_FILE = stat.S_IFREG | 0o644


class Entry(NamedTuple):
    """One file or folder."""

    name: str
    mode: int
    data: bytes = b""


def initramfs(root: RootFileSystem) -> bytes:
    """Return the initial RAM disk that brings a root file system up."""
    entries = [Entry(name, _FOLDER) for name in _FOLDERS]
    entries.append(Entry("bin/busybox", _PROGRAM, (root.tree / "bin/busybox").read_bytes()))
    entries.append(Entry("init", _PROGRAM, _inside("init.sh")))
    entries += [Entry(f"inside/{name}", _FILE, _inside(name)) for name in _INSIDE]
    entries += [Entry(f"modules/{path.name}", _FILE, path.read_bytes()) for path in root.modules]
    order = " ".join(path.name for path in root.modules)
    entries.append(Entry("modules/order", _FILE, order.encode()))
    return archive(entries)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return an archive; all times and owners in it are zero."""
    written = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
        written += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        written += bytes(-len(written) % 4)
        written += entry.data
        written += bytes(-len(written) % 4)
    return bytes(written)


def _inside(name: str) -> bytes:
    return (files("fleet_emulation.linux_devices.inside") / name).read_bytes()
