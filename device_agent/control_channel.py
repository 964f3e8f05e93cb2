# SPDX-License-Identifier: Apache-2.0
"""Typed messages over the socket pair between supervisor and worker: ``u32 length`` (little-endian) and JSON."""

import socket
import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct("<I")
_RECEIVE_BYTES = 256 << 10


class ControlChannel:
    """One end of the pair. Sending blocks only while the other end does not read at all."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._received = bytearray()

    def send(self, message: msgspec.Struct) -> bool:
        """Send one message; False if the other end is gone."""
        data = msgspec.json.encode(message)
        try:
            self.socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            return False
        return True

    def receive(self, kind: Any) -> list[Any] | None:  # `kind` may be a union, which has no static type
        """Return the whole messages that one read completes; None when the other end is gone."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        self._received += data
        messages = []
        while (body := self._next()) is not None:
            messages.append(msgspec.json.decode(body, type=kind))
        return messages

    def _next(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
        if len(self._received) < end:
            return None
        body = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return body
