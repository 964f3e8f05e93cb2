# SPDX-License-Identifier: Apache-2.0
"""The one way out of an emulated device: QEMU starts this program for each connection to the gate.

    python network_gate.py REACHABLE

The device says first which port of this machine's 127.0.0.1 it wants (uint16, little-endian); it gets there if the file
``REACHABLE`` lists it. Standard input and output are one socket.
"""

import socket
import struct
import sys
from pathlib import Path

from fleet_emulation.linux_devices.inside.control import carry, receive


def main(reachable: Path) -> int:
    """Carry one connection."""
    with socket.socket(fileno=0) as device:
        (port,) = struct.unpack("<H", receive(device, 2))
        if str(port) not in reachable.read_text().split():
            return 1
        with socket.create_connection(("127.0.0.1", port)) as service:
            carry(device, service)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except OSError:
        sys.exit(1)  # either end hung up
