# SPDX-License-Identifier: Apache-2.0
"""One application's connection in the worker: bytes in, requests out, answers back, without blocking."""

import socket
import time

from device_agent.inference_protocol import (
    ANSWER_RING_BODY,
    FRAME_LIMIT_BYTES,
    InferRequest,
    Request,
    RingRequest,
    ShareRequest,
    decode_request,
    frame,
    frame_length,
)
from device_agent.shared_memory import AREA_LIMIT_BYTES, looks
from device_agent.worker.door import Asked, Door, door_bytes, to_array
from device_agent.worker.engine import Reply
from device_agent.worker.replies import encoded
from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.interface import Declaration

_RECEIVE_BYTES = 256 << 10
_HEAD_BYTES = 4
#: Answers that may wait for a slow reader; its next requests wait until it has read these.
_UNSENT_LIMIT_BYTES = 1 << 20
_RING = frame(ANSWER_RING_BODY)
#: Whether this machine can look into shared memory instead of being rung.
LOOKS = looks()


class Session:
    """A connected application; ``closed`` turns true when either side is done.

    ``asked`` is the request for an inference that is not answered yet: there is one at most, and what the application
    sends behind it waits.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.closed = False
        self.asked: Asked | None = None
        self.door: Door | None = None
        self.declaration: Declaration | None = None
        #: The bundle that the declaration was last found to fit.
        self.fits = ""
        self.last_used_s = time.monotonic()
        #: When a request was last answered through the shared memory.
        self.last_answer_s = 0.0
        self._received = bytearray()
        self._unsent = bytearray()
        self._ending = False
        self._by_memory = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes of requests that are not whole yet, and of answers that were not read yet."""
        return len(self._received) + len(self._unsent)

    @property
    def shared_bytes(self) -> int:
        """Memory that this connection's shared memory takes."""
        return 0 if self.door is None else self.door.size_bytes

    @property
    def has_more(self) -> bool:
        """Tell whether another request, whole or not to be read, is there already."""
        length = int.from_bytes(self._received[:_HEAD_BYTES], "little")
        return len(self._received) >= _HEAD_BYTES + (length if length <= FRAME_LIMIT_BYTES else 0)

    @property
    def wants_to_write(self) -> bool:
        """Tell whether answers wait for the application to read."""
        return bool(self._unsent)

    @property
    def wants_to_read(self) -> bool:
        """Tell whether more may be taken: what waits for its turn or an answer is enough for now."""
        return len(self._received) < _RECEIVE_BYTES or not (self.asked or self.has_more)

    def readable(self) -> None:
        """Take what came."""
        try:
            data = self.connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        self.last_used_s = time.monotonic()
        self._received += data

    def writable(self) -> None:
        """Send as much as the application takes."""
        try:
            while self._unsent:
                sent = self.connection.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.closed = True
        if self._ending:
            self.closed = True

    def next_request(self) -> Request | None:
        """Return the next whole request that may be looked at; a request for an inference becomes :attr:`asked`."""
        while not (self.asked or self.closed or self._ending or len(self._unsent) > _UNSENT_LIMIT_BYTES):
            try:
                body = self._next_frame()
                if body is None:
                    return None
                request = decode_request(body)
                if isinstance(request, InferRequest):
                    arrays = [to_array(tensor) for tensor in request.tensors]
                    self.asked = Asked(arrays, request.model, request.deadline_us)
                    self._by_memory = False
            except MessageError as error:
                self.refuse(error.message)
                return None
            if not isinstance(request, RingRequest) or self.look():
                return request
        return None

    def look(self) -> bool:
        """Take the request that lies in the shared memory; tell whether there was one."""
        door = self.door
        if door is None or self.asked is not None or self._ending or not door.requested:
            return False
        try:
            self.asked = door.take()
            self._by_memory = True
        except MessageError as error:
            self.refuse(error.message)
            return False
        return True

    def share(self, request: ShareRequest, room_bytes: int) -> str:
        """Make shared memory of at most ``room_bytes`` and pass it on; return why not, if not."""
        if self.door is not None or self._unsent:
            return "this connection has shared memory"
        if not 0 < max(request.request_bytes, request.answer_bytes) <= AREA_LIMIT_BYTES:
            return f"an area has at most {AREA_LIMIT_BYTES} bytes"
        if (taken_bytes := door_bytes(request.request_bytes, request.answer_bytes)) > room_bytes:
            return f"it would take {taken_bytes} bytes, and other applications leave {room_bytes}: use the socket"
        try:
            self.door = Door(request.request_bytes, request.answer_bytes)
            data = frame(encoded(Reply("ok")))
            self._unsent += data[self.door.pass_on(self.connection, data) :]
        except OSError as error:
            self.closed = self.door is not None
            return f"there is no room for it ({error.strerror})"
        return ""

    def reply(self, reply: Reply) -> None:
        """Answer the last request, in the way that it came."""
        self.asked = None
        if self.closed:
            return
        if self._by_memory and self.door is not None:
            self._by_memory = False
            by_socket = self.door.answer(reply)
            self.last_answer_s = time.monotonic()
            if by_socket is not None:
                self._send(by_socket)
            elif not LOOKS or self.door.client_sleeps():
                self._unsent += _RING
                self.writable()
        else:
            self._send(encoded(reply))

    def refuse(self, why: str) -> None:
        """Answer what cannot be read, and end."""
        self._ending = True
        self._by_memory = False
        self.asked = None
        self._send(encoded(Reply("bad-input", detail=why)))

    def close(self) -> None:
        """Let go of the connection and the memory."""
        self.closed = True
        self.asked = None
        self.connection.close()
        if self.door is not None:
            self.door.close()
            self.door = None

    def _next_frame(self) -> bytes | None:
        if len(self._received) < _HEAD_BYTES:
            return None
        end = _HEAD_BYTES + frame_length(bytes(self._received[:_HEAD_BYTES]))
        if len(self._received) < end:
            return None
        body = bytes(self._received[_HEAD_BYTES:end])
        del self._received[:end]
        return body

    def _send(self, body: bytes) -> None:
        self._unsent += frame(body)
        self.writable()
