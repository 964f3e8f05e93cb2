# SPDX-License-Identifier: Apache-2.0
"""A client for applications on the device: standard library only, one connection, calls one after another.

    with InferenceClient("/var/lib/edgefleet/inference.sock") as client:
        answer = client.infer(picture)            # anything with the buffer protocol, such as a numpy array
        client.feedback(answer.request_id, "cat") # when the truth is known

While a worker restarts, requests wait in the supervisor's socket. A connection that a restart broke is made again,
and the request is sent once more.
"""

import os
import socket
import struct
import time
from collections.abc import Sequence
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING

from device_agent.client_answers import Buffer, LocalAnswer, RawTensor, due_us, left_s, local_answer, tensor_of
from device_agent.client_window import SharedWindow
from device_agent.inference_protocol import (
    ANSWER_RING_BODY,
    FRAME_LIMIT_BYTES,
    DeclareRequest,
    FeedbackRequest,
    InferRequest,
    InfoRequest,
    Request,
    ShareRequest,
    decode_answer,
    encode_request,
    frame,
    frame_length,
)
from device_agent.shared_memory import AREA_LIMIT_BYTES, attach
from edgefleet.contracts.errors import InputError, MessageError, UnreachableError

if TYPE_CHECKING:
    from edgefleet.contracts.interface import NeededInterface

__all__ = ["Buffer", "InferenceClient", "LocalAnswer", "RawTensor"]

_RETRY_S = 0.01
#: Room for requests and answers of small models; an answer that needs more comes through the socket.
_SMALLEST_AREA_BYTES = 64 << 10


class InferenceClient:
    """A connection to the agent's local socket; not for two threads at once.

    ``timeout_s`` bounds each call, including the wait for a worker that restarts. ``model`` names the model to ask
    where the device has several. With ``shared_memory`` inputs and answers go through memory that both sides see,
    where the worker offers it.
    """

    def __init__(
        self, path: str | PathLike[str], *, timeout_s: float = 10.0, model: str = "", shared_memory: bool = True
    ) -> None:
        self._path = fspath(path)
        self._timeout_s = timeout_s
        self._model = model
        self._connection: socket.socket | None = None
        self._declaration: bytes | None = None
        self._shares = shared_memory
        self._window: SharedWindow | None = None

    def infer(self, *inputs: "RawTensor | Buffer", deadline_s: float | None = None) -> LocalAnswer:
        """Ask for one inference: one raw input for each input of the model, before preprocessing.

        After ``deadline_s`` the answer is of no use: the worker does not start it any more, and refuses a request at
        once (``busy``) that it cannot answer by then.

        Raises:
            UnreachableError: the agent does not answer within the time limit.
            InputError: an input has a dtype that models do not take, or the deadline is not a number.
        """
        until_us = due_us(deadline_s)
        try:
            if self._window is not None and len(inputs) == 1:
                answer = self._window.repeated(inputs[0], until_us, self._timeout_s)
                if answer is not None:
                    return answer
            request = InferRequest(tuple(tensor_of(value) for value in inputs), until_us, self._model)
            answer = self._through_memory(request, inputs) if self._shares else None
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, MessageError):
            self.close()  # the worker ended, or is out of its mind: ask the next one
            answer = None
            request = InferRequest(tuple(tensor_of(value) for value in inputs), until_us, self._model)
        return answer or self._call(request)

    def declare(self, application: str, interface: "NeededInterface", *, model: str | None = None) -> LocalAnswer:
        """Say for which interface this application was built; said again on each new connection.

        The status is ``ok``, ``no-model``, or ``incompatible`` with the differences in ``detail``: then the model is
        not asked. The agent refuses releases with another interface before they run.

        Raises:
            UnreachableError: the agent does not answer within the time limit.
        """
        import msgspec

        from edgefleet.contracts.interface import Declaration

        said = Declaration(application=application, interface=interface, model=model or self._model or None)
        self._declaration = msgspec.json.encode(said)
        return self._call(DeclareRequest(self._declaration))

    def feedback(self, request_id: int, label: str | int, *, release: str = "", predicted: int = -1) -> LocalAnswer:
        """Say what an earlier answer should have been: a label's name or a class number.

        With ``release`` and ``predicted``, that answer's ``release`` and ``top_class``, a label counts however late it
        comes. The status is ``ok``, ``unknown-request`` (labelled already, of a release that did not run here, or
        without these two too long ago) or ``bad-input`` (no such label).

        Raises:
            UnreachableError: the agent does not answer within the time limit.
        """
        said = FeedbackRequest(request_id, str(label))
        answer = self._call(said)
        if answer.status == "unknown-request" and release:
            late = self._call(said._replace(release=release, predicted=predicted))
            if late.status == "bad-input" and not late.release:  # of an agent that knows no late labels
                self.close()
            else:
                answer = late
        return answer

    def info(self) -> LocalAnswer:
        """Ask which release answers.

        Raises:
            UnreachableError: the agent does not answer within the time limit.
        """
        return self._call(InfoRequest(self._model))

    def close(self) -> None:
        """Close the connection."""
        if self._window is not None:
            self._window.close()
            self._window = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "InferenceClient":
        """Return the client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def _call(self, request: Request) -> LocalAnswer:
        body = _encoded(request)
        deadline = time.monotonic() + self._timeout_s
        attempts = 2 if self._connection is None else 3  # a kept connection may be one that a restart broke
        for attempt in range(attempts):
            try:
                return local_answer(decode_answer(self._exchange(body, deadline)))
            except TimeoutError as error:
                raise self._late() from error
            except (OSError, MessageError) as error:
                self.close()
                if attempt == attempts - 1:
                    raise self._unreachable(getattr(error, "strerror", None) or str(error)) from error
        raise AssertionError("the loop above returns or raises")

    def _exchange(self, body: bytes, deadline: float) -> bytes:
        connection = self._connected(deadline)
        connection.settimeout(left_s(deadline))
        connection.sendall(frame(body))
        return self._frame(deadline)

    def _connected(self, deadline: float) -> socket.socket:
        """Return the connection, made and introduced where there is none."""
        if self._connection is None:
            self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._connect(self._connection, deadline)
            if self._declaration is not None:
                self._exchange(encode_request(DeclareRequest(self._declaration)), deadline)
        return self._connection

    def _frame(self, deadline: float) -> bytes:
        """Receive an answer's frame; rings for answers that were seen before they rang are dropped."""
        while True:
            length = frame_length(self._receive(struct.calcsize("<I"), deadline))
            body = self._receive(length, deadline)
            if body != ANSWER_RING_BODY:
                return body

    def _connect(self, connection: socket.socket, deadline: float) -> None:
        connection.settimeout(left_s(deadline))
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
            if time.monotonic() > deadline:  # also where something comes without end
                raise TimeoutError
            self._connection.settimeout(left_s(deadline))
            piece = self._connection.recv(size_bytes - len(received))
            if not piece:
                raise ConnectionResetError("the worker ended")
            received += piece
        return bytes(received)

    def _through_memory(self, request: InferRequest, inputs: Sequence["RawTensor | Buffer"]) -> LocalAnswer | None:
        """Ask through shared memory; None where that cannot be: then the socket has to do."""
        body = _encoded(request)
        deadline = time.monotonic() + self._timeout_s
        if self._window is None:
            self._window = self._open_window(len(body), deadline)
        if self._window is None or len(body) > self._window.request_bytes:
            return None
        return self._window.first(body, inputs, deadline)

    def _open_window(self, size_bytes: int, deadline: float) -> "SharedWindow | None":
        areas = max(size_bytes, _SMALLEST_AREA_BYTES), _SMALLEST_AREA_BYTES
        if size_bytes > AREA_LIMIT_BYTES // 2:
            return None
        connection = self._connected(deadline)
        connection.settimeout(left_s(deadline))
        connection.sendall(frame(encode_request(ShareRequest(*areas))))
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 1, socket.MSG_CMSG_CLOEXEC)
        try:
            head += self._receive(4 - len(head), deadline)
            answer = decode_answer(self._receive(frame_length(head), deadline))
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        if answer.status != "ok" or not descriptors:
            self._shares = False
            return None
        return SharedWindow(connection, attach(descriptors[0]), self._frame)

    def _late(self) -> UnreachableError:
        self.close()
        return self._unreachable(f"no answer within {self._timeout_s:g} s")

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
