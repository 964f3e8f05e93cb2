# SPDX-License-Identifier: Apache-2.0
"""One application's connection in the worker: bytes in, whole frames out, answers back, without blocking."""

import logging
import socket
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agent.inference_protocol import (
    AnswerFrame,
    FeedbackRequest,
    InferRequest,
    Request,
    Tensor,
    decode_request,
    encode_answer,
    frame,
    frame_length,
)
from device_agent.worker.engine import Engine, Reply
from edgefleet.contracts.errors import MessageError

_LOG = logging.getLogger("edgefleet.worker")
_RECEIVE_BYTES = 256 << 10
_HEAD_BYTES = 4
#: Answers that may wait for a slow reader; its next requests wait until it has read these.
_UNSENT_LIMIT_BYTES = 1 << 20


class Session:
    """A connected application; ``closed`` turns true when either side is done."""

    def __init__(self, connection: socket.socket, engine: Engine) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.closed = False
        self._engine = engine
        self._received = bytearray()
        self._unsent = bytearray()
        self._ending = False
        self.last_used_s = time.monotonic()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of requests that are not whole yet, and of answers that were not read yet."""
        return len(self._received) + len(self._unsent)

    @property
    def wants_to_write(self) -> bool:
        """Tell whether answers wait for the application to read."""
        return bool(self._unsent)

    def readable(self) -> None:
        """Take what came, answer every whole frame in it, then run comparisons that were left for later."""
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
        self._answer_frames()

    def writable(self) -> None:
        """Send as much as the application takes, then answer what it asked meanwhile."""
        self._flush()
        if not self.closed and not self._unsent:
            self._answer_frames()

    def _flush(self) -> None:
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

    def _answer_frames(self) -> None:
        try:
            while not self._paused and (body := self._next_frame()) is not None:
                self._send(self._answer(body))
                self._engine.settle()
        except MessageError as error:
            self._ending = True
            self._send(AnswerFrame("bad-input", detail=error.message))

    @property
    def _paused(self) -> bool:
        return self.closed or self._ending or len(self._unsent) > _UNSENT_LIMIT_BYTES

    def _answer(self, body: bytes) -> AnswerFrame:
        request = decode_request(body)
        try:
            return to_frame(answer(self._engine, request))
        except Exception:  # noqa: BLE001  what one application sends must not end the worker of all
            _LOG.exception("a request met a defect")
            return AnswerFrame("failed", detail="the request met a defect of the agent; see its log")

    def _next_frame(self) -> bytes | None:
        if len(self._received) < _HEAD_BYTES:
            return None
        end = _HEAD_BYTES + frame_length(bytes(self._received[:_HEAD_BYTES]))
        if len(self._received) < end:
            return None
        body = bytes(self._received[_HEAD_BYTES:end])
        del self._received[:end]
        return body

    def _send(self, reply: AnswerFrame) -> None:
        self._unsent += frame(encode_answer(reply))
        self._flush()


def answer(engine: Engine, request: Request) -> Reply:
    """Answer one request; one whose deadline is over is not run."""
    if isinstance(request, FeedbackRequest):
        return engine.feedback(request.request_id, request.label)
    if not isinstance(request, InferRequest):
        return engine.info()
    if request.deadline_us and time.monotonic_ns() // 1000 > request.deadline_us:
        return Reply("deadline", detail="the request waited longer than its deadline")
    return engine.infer([to_array(tensor) for tensor in request.tensors])


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """View a tensor's bytes as an array."""
    return np.frombuffer(tensor.data, dtype=np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)


def to_frame(reply: Reply) -> AnswerFrame:
    """Turn an engine's reply into the wire's answer."""
    tensors = tuple(Tensor("float32", o.shape, o.astype("<f4", copy=False).tobytes()) for o in reply.outputs)
    return AnswerFrame(*reply[:-1], tensors)
