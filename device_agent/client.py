# SPDX-License-Identifier: Apache-2.0
"""A client for applications on the device: standard library only, one connection, calls one after another.

    with InferenceClient("/var/lib/edgefleet/inference.sock") as client:
        answer = client.infer(picture)            # anything with the buffer protocol, such as a numpy array
        client.feedback(answer.request_id, "cat") # when the truth is known

While a worker restarts, requests wait in the supervisor's socket. A connection that a restart broke is made again,
and the request is sent once more.
"""

import socket
import struct
import time
from os import PathLike, fspath
from types import TracebackType
from typing import NamedTuple, Protocol

from device_agent.inference_protocol import (
    DTYPES,
    FRAME_LIMIT_BYTES,
    AnswerFrame,
    FeedbackRequest,
    InferRequest,
    InfoRequest,
    Request,
    Tensor,
    decode_answer,
    encode_request,
    frame,
    frame_length,
)
from edgefleet.contracts.errors import InputError, UnreachableError

_RETRY_S = 0.01
_FORMATS = {
    "f": "float32",
    "e": "float16",
    "b": "int8",
    "B": "uint8",
    "h": "int16",
    "i": "int32",
    "l": "int64",
    "q": "int64",
    "?": "bool",
}


class RawTensor(NamedTuple):
    """One input given as bytes: little-endian values in C order, with dtype (``float32``, ``uint8``, …) and shape."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]


class Buffer(Protocol):
    """Anything with the buffer protocol, such as a numpy array or an ``array.array``."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Return the bytes, their format and shape."""


class LocalAnswer(NamedTuple):
    """What the device's model answered.

    ``status`` is ``ok``, ``no-model``, ``bad-input``, ``failed`` or ``deadline``; only with ``ok`` there are
    ``outputs``: one tuple of de-quantized values an output, flat, with its shape in ``shapes``. ``release`` is the
    model's name and version.
    """

    status: str
    request_id: int
    top_class: int
    label: str
    confidence: float
    release: str
    detail: str
    outputs: tuple[tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]


class InferenceClient:
    """A connection to the agent's local socket; not for two threads at once.

    ``timeout_s`` bounds each call, including the wait for a worker that restarts.
    """

    def __init__(self, path: str | PathLike[str], *, timeout_s: float = 10.0) -> None:
        self._path = fspath(path)
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None

    def infer(self, *inputs: "RawTensor | Buffer", deadline_s: float | None = None) -> LocalAnswer:
        """Ask for one inference: one raw input for each input of the model, before preprocessing.

        After ``deadline_s`` the answer is of no use: the worker does not start it any more.

        Raises:
            UnreachableError: the agent does not answer within the time limit.
            InputError: an input has a dtype that models do not take.
        """
        until_us = 0 if deadline_s is None else (time.monotonic_ns() + int(deadline_s * 1e9)) // 1000
        return _local(self._call(InferRequest(tuple(_tensor(value) for value in inputs), until_us)))

    def feedback(self, request_id: int, label: str | int) -> LocalAnswer:
        """Say what an earlier answer should have been: a label's name or a class number.

        The status is ``ok``, ``unknown-request`` (too long ago, or before a restart) or ``bad-input`` (no such label).

        Raises:
            UnreachableError: the agent does not answer within the time limit.
        """
        return _local(self._call(FeedbackRequest(request_id, str(label))))

    def info(self) -> LocalAnswer:
        """Ask which release answers.

        Raises:
            UnreachableError: the agent does not answer within the time limit.
        """
        return _local(self._call(InfoRequest()))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "InferenceClient":
        """Return the client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def _call(self, request: Request) -> AnswerFrame:
        data = frame(_encoded(request))
        deadline = time.monotonic() + self._timeout_s
        attempts = 2 if self._connection is None else 3  # a kept connection may be one that a restart broke
        for attempt in range(attempts):
            try:
                return self._exchange(data, deadline)
            except TimeoutError as error:
                self.close()
                raise self._unreachable(f"no answer within {self._timeout_s:g} s") from error
            except OSError as error:
                self.close()
                if attempt == attempts - 1:
                    raise self._unreachable(error.strerror or str(error)) from error
        raise AssertionError("the loop above returns or raises")

    def _exchange(self, data: bytes, deadline: float) -> AnswerFrame:
        if self._connection is None:
            self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._connect(self._connection, deadline)
        self._connection.settimeout(_left(deadline))
        self._connection.sendall(data)
        length = frame_length(self._receive(struct.calcsize("<I"), deadline))
        return decode_answer(self._receive(length, deadline))

    def _connect(self, connection: socket.socket, deadline: float) -> None:
        connection.settimeout(_left(deadline))
        while True:
            try:
                return connection.connect(self._path)
            except BlockingIOError:  # others wait for the agent too, and its queue is full
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(_RETRY_S)

    def _receive(self, size_bytes: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < size_bytes:
            assert self._connection is not None  # noqa: S101  _exchange() made it
            self._connection.settimeout(_left(deadline))
            piece = self._connection.recv(size_bytes - len(received))
            if not piece:
                raise ConnectionResetError("the worker ended")
            received += piece
        return bytes(received)

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"the agent does not answer on '{self._path}': {why}",
            hint="start it with: edgefleet-agent run --data DIR",
        )


def _encoded(request: Request) -> bytes:
    try:
        body = encode_request(request)
    except (struct.error, UnicodeEncodeError) as error:
        raise InputError(
            f"the request cannot be sent: {error}", hint="give a number of 64 bits, and a label of at most 65535 bytes"
        ) from error
    if len(body) > FRAME_LIMIT_BYTES:
        raise InputError(
            f"the request has {len(body)} bytes, over the limit of {FRAME_LIMIT_BYTES}", hint="send a smaller input"
        )
    return body


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _tensor(value: "RawTensor | Buffer") -> Tensor:
    if isinstance(value, RawTensor):
        if value.dtype not in DTYPES:
            raise InputError(f"an input has the dtype '{value.dtype}'", hint=f"use one of {', '.join(DTYPES)}")
        return Tensor(value.dtype, tuple(value.shape), value.data)
    view = memoryview(value)
    code = view.format.lstrip("<=@")
    if code not in _FORMATS or (code == "l" and view.itemsize != 8):
        raise InputError(f"an input has the element format '{view.format}'", hint=f"use one of {', '.join(DTYPES)}")
    return Tensor(_FORMATS[code], tuple(view.shape or ()), view.tobytes())


def _local(answer: AnswerFrame) -> LocalAnswer:
    outputs = [struct.unpack(f"<{len(tensor.data) // 4}f", tensor.data) for tensor in answer.tensors]
    return LocalAnswer(
        status=answer.status,
        request_id=answer.request_id,
        top_class=answer.top_class,
        label=answer.label,
        confidence=answer.confidence,
        release=answer.release,
        detail=answer.detail,
        outputs=tuple(outputs),
        shapes=tuple(tensor.shape for tensor in answer.tensors),
    )
