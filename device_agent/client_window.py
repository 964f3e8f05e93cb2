# SPDX-License-Identifier: Apache-2.0
"""The application's end of the memory that it shares with the worker.

A call with an input of the same form as the last one only copies the numbers and the deadline. After an answer that
was soon there, the next one is looked for instead of slept for, where the machine allows that.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

from device_agent.client_answers import Buffer, LocalAnswer, RawTensor, left_s, local_answer
from device_agent.inference_protocol import RING_BODY, STATUSES, VERSION, decode_answer, frame
from device_agent.shared_memory import (
    ANSWERED,
    BY_SOCKET,
    CLIENT_SLEEPS,
    LENGTH,
    REQUESTED,
    SECOND_LOOK_S,
    WORKER_SLEEPS,
    SharedMemory,
    looks,
)

_RING = frame(RING_BODY)
_HEAD = struct.Struct("<BBBBQifHHHH")
_DEADLINE = struct.Struct("<Q")
_DEADLINE_AT = 4
#: Where an answer's head says how long its texts are.
_SIZES_AT = 20
#: An answer that takes longer than this is slept for; looking for it would cost the application a processor.
_LOOK_S = 0.0006
_WEIGHT = 0.1
_REMEMBERED = 256


class SharedWindow:
    """Asks one worker through shared memory, one request at a time.

    ``receive`` takes an answer's frame from the socket, for an answer that does not fit the memory.
    """

    def __init__(self, connection: socket.socket, memory: SharedMemory, receive: Callable[[float], bytes]) -> None:
        self._connection = connection
        self._memory = memory
        self._words = memory.words
        self._receive = receive
        self._looks = looks()
        self._number = 0
        self._expected_s = 0.0
        self._form: tuple[str, tuple[int, ...], int] | None = None
        self._data = memory.view[:0]
        self._seen: dict[bytes, LocalAnswer] = {}

    @property
    def request_bytes(self) -> int:
        """The largest request's body that fits."""
        return self._memory.request_bytes

    def first(self, body: bytes, inputs: Sequence[RawTensor | Buffer], deadline: float) -> LocalAnswer:
        """Ask with a whole body, and remember its form for :meth:`repeated`.

        Raises:
            OSError: the worker ended, or the deadline (monotonic seconds) is over.
        """
        memory = self._memory
        LENGTH.pack_into(memory.view, memory.request_at, len(body))
        start = memory.request_at + LENGTH.size
        memory.view[start : start + len(body)] = body
        self._form = None
        if len(inputs) == 1 and not isinstance(inputs[0], RawTensor):
            view = memoryview(inputs[0])
            if view.c_contiguous:
                self._form = view.format, tuple(view.shape or ()), view.nbytes
                self._data = memory.view[start + len(body) - view.nbytes : start + len(body)]
        return self._answer(deadline)

    def repeated(self, value: RawTensor | Buffer, deadline_us: int, timeout_s: float) -> LocalAnswer | None:
        """Ask with an input of the last one's form; None where it has another.

        Raises:
            OSError: the worker ended, or the time is over.
        """
        if self._form is None or isinstance(value, RawTensor):
            return None
        view = memoryview(value)
        if (view.format, view.shape, view.nbytes) != self._form or not view.c_contiguous:
            return None
        memory = self._memory
        _DEADLINE.pack_into(memory.view, memory.request_at + LENGTH.size + _DEADLINE_AT, deadline_us)
        self._data[:] = view.cast("B")
        return self._answer(time.monotonic() + timeout_s)

    def close(self) -> None:
        """Let go of the memory."""
        self._data.release()
        self._memory.close()

    def _answer(self, deadline: float) -> LocalAnswer:
        """Send what lies in the memory, and read what comes."""
        words = self._words
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        words[REQUESTED] = number
        if words[WORKER_SLEEPS] or not self._looks:
            self._connection.sendall(_RING)
        self._wait(number, deadline)
        memory = self._memory
        length = LENGTH.unpack_from(memory.view, memory.answer_at)[0]
        if length == BY_SOCKET:
            return local_answer(decode_answer(self._receive(deadline)))
        start = memory.answer_at + LENGTH.size
        return self._read(bytes(memory.view[start : start + length]))

    def _wait(self, number: int, deadline: float) -> None:
        """Look for the answer where it is expected soon, then sleep."""
        words, clock = self._words, time.perf_counter
        started = clock()
        if self._looks and self._expected_s < _LOOK_S:
            until = started + _LOOK_S
            while words[ANSWERED] != number:
                if clock() > until:
                    break
        if words[ANSWERED] != number:
            self._sleep(number, deadline)
        self._expected_s += (clock() - started - self._expected_s) * _WEIGHT

    def _sleep(self, number: int, deadline: float) -> None:
        words = self._words
        words[CLIENT_SLEEPS] = 1
        patience_s = SECOND_LOOK_S
        try:
            while words[ANSWERED] != number:
                if time.monotonic() > deadline:
                    raise TimeoutError
                if select.select([self._connection], [], [], min(patience_s, left_s(deadline)))[0]:
                    if words[ANSWERED] == number:
                        return
                    self._hear()
                elif patience_s == SECOND_LOOK_S:  # its falling asleep and this request may have crossed
                    self._connection.sendall(_RING)
                patience_s = left_s(deadline)
        finally:
            words[CLIENT_SLEEPS] = 0

    def _hear(self) -> None:
        """Take rings out of the socket; what is no ring stays there."""
        waiting = self._connection.recv(len(_RING), socket.MSG_PEEK)
        if not waiting:
            raise ConnectionResetError("the worker ended")
        if waiting[4] == 130:
            self._connection.recv(len(_RING))
        else:  # the worker refused what it read
            raise ConnectionResetError("the worker refused the request")

    def _read(self, body: bytes) -> LocalAnswer:
        """Read an answer; what lies between its head and its numbers is mostly that of an earlier one."""
        _, version, status, _, request_id, top, confidence, release, label, detail, tensors = _HEAD.unpack_from(body)
        if tensors != 1 or status or version != VERSION:
            return local_answer(decode_answer(body))
        texts = _HEAD.size + release + label + detail
        start = texts + 4 + 4 * body[texts + 1]
        key = body[_SIZES_AT:start]
        known = self._seen.get(key)
        if known is None:
            known = local_answer(decode_answer(body))
            if len(self._seen) < _REMEMBERED:
                self._seen[key] = known
            return known
        values = tuple(memoryview(body)[start:].cast("f"))
        return LocalAnswer(
            STATUSES[0], request_id, top, known.label, confidence, known.release, "", (values,), known.shapes
        )
