# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the memory that it shares with one application.

What lies there is copied before it is looked at. A request of the same form as the last one is not parsed again: its
head is compared, and its numbers are where the last one's were.
"""

import os
import socket
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from device_agent.inference_protocol import InferRequest, Tensor, decode_request
from device_agent.shared_memory import (
    ANSWERED,
    BY_SOCKET,
    CLIENT_SLEEPS,
    HEAD_BYTES,
    LENGTH,
    REQUESTED,
    WORKER_SLEEPS,
    create,
    rounded,
)
from device_agent.worker.engine import Reply
from device_agent.worker.replies import ReplyWriter, encoded
from edgefleet.contracts.errors import MessageError

Array = npt.NDArray[Any]
_DEADLINE = struct.Struct("<Q")
#: Where an infer request's deadline lies: what stands before and behind it is the form of the request.
_DEADLINE_AT, _DEADLINE_END = 4, 12


class _Form(NamedTuple):
    """How the last request looked: its length, where it lies and is copied to, and what stands around its deadline."""

    length: int
    memory: memoryview
    copy: memoryview
    without_deadline: bytes
    start: bytes
    rest: bytes


class Asked:
    """One request for an inference, as the worker keeps it: arrays, the model's name, the deadline."""

    __slots__ = ("deadline_us", "model", "raw")

    def __init__(self, raw: list[Array], model: str, deadline_us: int) -> None:
        self.raw = raw
        self.model = model
        self.deadline_us = deadline_us


class Door:
    """Shared memory of one connection; ``answered`` and ``requested`` differ while a request lies there."""

    def __init__(self, request_bytes: int, answer_bytes: int) -> None:
        self.memory, self.descriptor = create(request_bytes, answer_bytes)
        self._words = self.memory.words
        self._answered = 0
        self._copy = bytearray(self.memory.request_bytes)
        start = self.memory.answer_at + LENGTH.size
        self._answer = self.memory.view[start : start + self.memory.answer_bytes]
        self._writer = ReplyWriter(self._answer)
        self._form: _Form | None = None
        self._asked = Asked([], "", 0)

    def pass_on(self, connection: socket.socket, data: bytes) -> int:
        """Send an answer's frame together with the memory file's descriptor; return how much was sent."""
        try:
            return socket.send_fds(connection, [data], [self.descriptor])
        finally:
            os.close(self.descriptor)

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, with the copy of a request."""
        return self.memory.size_bytes + len(self._copy)

    @property
    def requested(self) -> bool:
        """Tell whether there is a request that was not answered yet."""
        return bool(self._words[REQUESTED] != self._answered)

    def look_for(self, *, looking: bool) -> None:
        """Say whether the worker looks by itself, or wants a ring."""
        self._words[WORKER_SLEEPS] = not looking

    def take(self) -> Asked:
        """Copy the request and read it.

        Raises:
            MessageError: it is no request for an inference.
        """
        memory = self.memory
        length: int = LENGTH.unpack_from(memory.view, memory.request_at)[0]
        if length > memory.request_bytes:
            raise MessageError(f"a shared request announces {length} bytes", hint="see device_agent.shared_memory")
        form = self._form
        if form is not None and length == form.length:
            asked, copy = self._asked, self._copy
            form.copy[:] = form.memory
            if copy.startswith(form.without_deadline):
                asked.deadline_us = 0
                return asked
            if copy.startswith(form.start) and copy.startswith(form.rest, _DEADLINE_END):
                asked.deadline_us = _DEADLINE.unpack_from(copy, _DEADLINE_AT)[0]
                return asked
        return self._learn(length)

    def answer(self, reply: Reply) -> bytes | None:
        """Put an answer into the memory; one that does not fit there is returned, for the socket."""
        memory = self.memory
        size_bytes = self._writer.write(reply)
        fits = size_bytes <= memory.answer_bytes
        LENGTH.pack_into(memory.view, memory.answer_at, size_bytes if fits else BY_SOCKET)
        words = self._words
        self._answered = words[ANSWERED] = (self._answered + 1) & 0xFFFFFFFF
        return None if fits else encoded(reply)

    def client_sleeps(self) -> bool:
        """Tell whether the application wants a ring."""
        return bool(self._words[CLIENT_SLEEPS])

    def close(self) -> None:
        """Let go of the memory."""
        self._forget()
        self._answer.release()
        self.memory.close()

    def _learn(self, length: int) -> Asked:
        """Copy a request of a new form, parse it, and remember the form."""
        start = self.memory.request_at + LENGTH.size
        memory, copy = self.memory.view[start : start + length], memoryview(self._copy)[:length]
        copy[:] = memory
        self._forget()
        request = decode_request(copy)
        if not isinstance(request, InferRequest):
            raise MessageError("a shared request asks for no inference", hint="send others through the socket")
        self._asked = Asked([to_array(tensor) for tensor in request.tensors], request.model, request.deadline_us)
        if len(request.tensors) == 1:
            head = bytes(copy[: length - len(request.tensors[0].data)])
            first, rest = head[:_DEADLINE_AT], head[_DEADLINE_END:]
            self._form = _Form(length, memory, copy, first + _DEADLINE.pack(0) + rest, first, rest)
        return self._asked

    def _forget(self) -> None:
        if self._form is not None:
            self._form.memory.release()
            self._form = None


def door_bytes(request_bytes: int, answer_bytes: int) -> int:
    """Return how much memory a door with areas for bodies of these sizes takes, with the copy of a request."""
    return HEAD_BYTES + 2 * rounded(request_bytes) - LENGTH.size + rounded(answer_bytes)


def to_array(tensor: Tensor) -> Array:
    """View a tensor's bytes as an array."""
    return np.frombuffer(tensor.data, dtype=np.dtype(tensor.dtype)).reshape(tensor.shape)
