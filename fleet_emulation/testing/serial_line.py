# SPDX-License-Identifier: Apache-2.0
"""This machine's end of a board's serial port."""

import socket
import threading
import time
from collections.abc import Callable

from edgefleet.contracts.errors import UnreachableError

_READ_BYTES = 65536


class SerialLine:
    """A connection to a serial port. What was heard is kept; reading moves on in it. ``name`` is the board's."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._name = name
        self._lock = threading.RLock()
        self._heard = bytearray()
        self._read_bytes = 0
        self._over = False

    @property
    def heard(self) -> bytes:
        """All that the board has said so far, read or not."""
        with self._lock:
            while self._listen(0.0):
                pass
            return bytes(self._heard)

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            UnreachableError: the board is off.
        """
        try:
            self._connection.settimeout(None)
            self._connection.sendall(data)
        except OSError:
            raise self._off() from None

    def read_until(self, marker: bytes, *, timeout_s: float = 10.0) -> bytes:
        """Return what the board says up to and with ``marker``, from where the last reading ended.

        Raises:
            UnreachableError: the marker has not come in time, or the board went off.
        """
        return self._read(lambda: self._end_of(marker), f"{marker!r}", timeout_s)

    def read(self, count: int, *, timeout_s: float = 10.0) -> bytes:
        """Return the next ``count`` bytes; see :meth:`read_until`."""
        return self._read(lambda: self._read_bytes + count, f"{count} bytes", timeout_s)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _end_of(self, marker: bytes) -> int | None:
        place = self._heard.find(marker, self._read_bytes)
        return None if place < 0 else place + len(marker)

    def _read(self, end_of: Callable[[], int | None], what: str, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while (end := end_of()) is None or end > len(self._heard):
                left_s = deadline - time.monotonic()
                if self._over:
                    raise self._off()
                if left_s <= 0:
                    raise UnreachableError(
                        f"{self._name} has not said {what} within {timeout_s:g} s; last it said "
                        f"{bytes(self._heard[-80:])!r}",
                        hint="its firmware hangs, says something else, or the machine is busy",
                    )
                self._listen(left_s)
            begin, self._read_bytes = self._read_bytes, end
            return bytes(self._heard[begin:end])

    def _listen(self, limit_s: float) -> bool:
        """Take what has come, or comes within a time; tell whether something did."""
        try:
            self._connection.settimeout(limit_s)
            data = self._connection.recv(_READ_BYTES)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            data = b""
        self._over = not data
        self._heard += data
        return bool(data)

    def _off(self) -> UnreachableError:
        return UnreachableError(f"{self._name} is off", hint="start it, and see what it said: Board.text")
