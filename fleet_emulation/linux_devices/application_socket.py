# SPDX-License-Identifier: Apache-2.0
"""A Unix socket of this machine that stands for one inside a device: applications here talk to the agent there.

It is as if they ran on the device: a pulled network cable does not disturb them. Requests and answers begin with their
length (:mod:`device_agent.inference_protocol`), and each is passed on whole.
"""

import itertools
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.linux_devices.inside.control import receive

#: Takes an application's number and its request, and returns the answer.
Exchange = Callable[[int, bytes], bytes]
_numbers = itertools.count(1)


class ApplicationSocket:
    """Listens at ``path`` until it is closed."""

    def __init__(self, path: Path, exchange: Exchange) -> None:
        self.path = path
        self._exchange = exchange
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept, name=f"applications at {path}", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Hang up on all applications, and listen no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in list(self._connections):
            with suppress(OSError):  # it hung up first
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # close() ended the listener
            self._connections.add(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        number = next(_numbers)
        with connection:
            try:
                while True:
                    head = receive(connection, struct.calcsize("<I"))
                    body = receive(connection, struct.unpack("<I", head)[0])
                    connection.sendall(self._exchange(number, head + body))
            except (OSError, EdgeFleetError):
                pass  # one of the two ends went away: so does the other
        self._connections.discard(connection)
        with suppress(EdgeFleetError):  # the device may be off
            self._exchange(number, b"")
