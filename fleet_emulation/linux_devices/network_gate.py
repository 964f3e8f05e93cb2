# SPDX-License-Identifier: Apache-2.0
"""The one way out of an emulated device: QEMU starts this program for each connection to the gate.

    python -m fleet_emulation.linux_devices.network_gate REACHABLE ALIVE

The device says first which port of this machine's 127.0.0.1 it wants (uint16, little-endian); it gets there if the file
``REACHABLE`` lists it. Standard input and output are one socket. ``ALIVE`` is a Unix socket of QEMU's: when nobody
listens there any more, this ends too, whatever the service does. (The kernel cannot be asked to see to it: QEMU starts
programs so that they are no children of its own.)
"""

import errno
import socket
import struct
import sys
from pathlib import Path

from fleet_emulation.linux_devices.inside.control import carry, receive

_GONE = (errno.ECONNREFUSED, errno.ENOENT)


def main(reachable: Path, alive: Path) -> int:
    """Carry one connection."""
    with socket.socket(fileno=0) as device:
        (port,) = struct.unpack("<H", receive(device, 2))
        if str(port) not in reachable.read_text().split():
            return 1
        with socket.create_connection(("127.0.0.1", port)) as service:
            carry(device, service, lambda: listens(alive))
    return 0


def listens(path: Path) -> bool:
    """Tell whether somebody listens on a Unix socket, be he too busy to answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) not in _GONE


if __name__ == "__main__":
    try:
        sys.exit(main(*map(Path, sys.argv[1:])))
    except OSError:
        sys.exit(1)  # either end hung up
