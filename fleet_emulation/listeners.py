# SPDX-License-Identifier: Apache-2.0
"""Which TCP addresses a set of processes listens on, as the kernel says it (proc(5), /proc/net/tcp)."""

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_LISTEN = "0A"


class Listener(NamedTuple):
    """One listening TCP socket of one process."""

    pid: int
    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        return self.address.startswith("127.") or self.address == "::1"


def listeners(pids: Iterable[int]) -> list[Listener]:
    """Return the TCP sockets that the processes and their descendants listen on, sorted by port."""
    by_inode = dict(_listening_inodes())
    found = [
        Listener(pid, *by_inode[inode]) for pid in with_descendants(pids) for inode in _inodes(pid) if inode in by_inode
    ]
    return sorted(set(found), key=lambda listener: (listener.port, listener.pid))


def _listening_inodes() -> Iterator[tuple[str, tuple[str, int]]]:
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path("/proc/net") / name
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                yield fields[9], _address(fields[1], family)


def _address(text: str, family: socket.AddressFamily) -> tuple[str, int]:
    """Decode the kernel's hexadecimal address: 32-bit words in host byte order, and the port."""
    host, port = text.split(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)


def with_descendants(pids: Iterable[int]) -> Iterator[int]:
    """Yield process ids, each followed by those of its children and their children."""
    for pid in pids:
        yield pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        try:
            below = [int(child) for path in children for child in path.read_text().split()]
        except OSError:
            continue  # the process ended meanwhile
        yield from with_descendants(below)


def _inodes(pid: int) -> Iterator[str]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return  # the process ended meanwhile
    for entry in entries:
        try:
            link = str(entry.readlink())
        except OSError:
            continue  # this descriptor was closed meanwhile; the others still count
        if link.startswith("socket:["):
            yield link[8:-1]
