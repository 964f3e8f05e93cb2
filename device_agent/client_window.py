# SPDX-License-Identifier: Apache-2.0
"""The application's end of the memory that it shares with the worker.

A call with an input of the same form as the last one only copies the numbers and the deadline, and an answer of a form
that came before is not parsed again. How an answer is waited for is said by :class:`~device_agent.client_pace.Pace`.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from device_agent.client_answers import Buffer, LocalAnswer, RawTensor, left_s, local_answer
from device_agent.client_pace import Pace
from device_agent.inference_protocol import ANSWER, ANSWER_RING_BODY, RING_BODY, STATUSES, VERSION, decode_answer, frame
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
#: Where a frame says what it is, and what one says that is a ring of the worker's.
_KIND, _RING_KIND = slice(4, 5), ANSWER_RING_BODY[:1]
_DEADLINE = struct.Struct("<Q")
_DEADLINE_AT = 4
#: How the body of an answer without a fault starts; then its number, top class and confidence, and from
#: :data:`_SIZES_AT` on what is the same in many answers, until its numbers.
_FINE = bytes((ANSWER, VERSION, STATUSES.index("ok"), 0))
_OWN = struct.Struct("<Qif")
_OWN_AT, _SIZES_AT = 4, 20
_REMEMBERED = 256
#: Every so manieth answer that was looked for is learnt from: learning takes as long as reading.
_LEARN_EVERY = 8
_made = tuple.__new__


class _Form(NamedTuple):
    """How answers of one length look: the memory where they lie, where their numbers start, and how these are read."""

    memory: memoryview
    values_at: int
    values: struct.Struct


class SharedWindow:
    """Asks one worker through shared memory, one request at a time.

    ``receive`` takes an answer's frame from the socket, for an answer that does not fit the memory.
    """

    def __init__(self, connection: socket.socket, memory: SharedMemory, receive: Callable[[float], bytes]) -> None:
        self._connection = connection
        self._memory = memory
        self._words = memory.words
        self._receive = receive
        #: Of a worker that looks and of one that is woken first; None where other processors' stores may not be seen in
        #: order, or there are none: then one sleeps.
        self._paces = (Pace(), Pace()) if looks() else None
        self._number = 0
        self._deadline_us = -1
        self._input: tuple[str, tuple[int, ...]] | None = None
        self._data = memory.view[:0]
        self._forms: dict[int, _Form] = {}
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
        self._input, self._deadline_us = None, -1
        if len(inputs) == 1 and not isinstance(inputs[0], RawTensor):
            view = memoryview(inputs[0])
            if view.c_contiguous:
                self._input = view.format, tuple(view.shape or ())
                self._data = memory.view[start + len(body) - view.nbytes : start + len(body)]
        return self._answer(left_s(deadline))

    def repeated(self, value: RawTensor | Buffer, deadline_us: int, timeout_s: float) -> LocalAnswer | None:
        """Ask with an input of the last one's form; None where it has another.

        Raises:
            OSError: the worker ended, or the time is over.
        """
        if self._input is None:
            return None
        try:
            view = memoryview(value)  # type: ignore[arg-type]
            if (view.format, view.shape) != self._input:
                return None
            self._data[:] = view.cast("B")
        except TypeError:  # bytes with a dtype of their own, or not one piece of memory
            return None
        if deadline_us != self._deadline_us:
            memory = self._memory
            _DEADLINE.pack_into(memory.view, memory.request_at + LENGTH.size + _DEADLINE_AT, deadline_us)
            self._deadline_us = deadline_us
        return self._answer(timeout_s)

    def close(self) -> None:
        """Let go of the memory."""
        self._data.release()
        for form in self._forms.values():
            form.memory.release()
        self._memory.close()

    def _answer(self, timeout_s: float) -> LocalAnswer:
        """Send what lies in the memory, and read what comes."""
        words = self._words
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        words[REQUESTED] = number
        asleep = words[WORKER_SLEEPS] != 0
        if asleep or self._paces is None:
            self._connection.sendall(_RING)
        if self._paces is None:
            self._sleep(number, timeout_s)
        else:
            self._wait(number, timeout_s, self._paces[asleep])
        memory = self._memory
        length = LENGTH.unpack_from(memory.view, memory.answer_at)[0]
        form = self._forms.get(length)
        if form is not None:
            body = form.memory.tobytes()
            known = self._seen.get(body[_SIZES_AT : form.values_at])
            if known is not None and body.startswith(_FINE):
                request_id, top, confidence = _OWN.unpack_from(body, _OWN_AT)
                values = form.values.unpack_from(body, form.values_at)
                return _made(
                    LocalAnswer,
                    ("ok", request_id, top, known.label, confidence, known.release, "", (values,), known.shapes),
                )
        return self._parsed(length, timeout_s)

    def _parsed(self, length: int, timeout_s: float) -> LocalAnswer:
        """Parse an answer, and remember its form."""
        if length == BY_SOCKET:
            return local_answer(decode_answer(self._receive(time.monotonic() + timeout_s)))
        start = self._memory.answer_at + LENGTH.size
        body = self._memory.view[start : start + length].tobytes()
        answer = local_answer(decode_answer(body))
        if body.startswith(_FINE) and len(answer.outputs) == 1 and len(self._seen) < _REMEMBERED:
            values = struct.Struct(f"<{len(answer.outputs[0])}f")
            known = self._forms.get(length)
            if known is not None:
                known.memory.release()
            self._forms[length] = _Form(self._memory.view[start : start + length], length - values.size, values)
            self._seen[body[_SIZES_AT : length - values.size]] = answer
        return answer

    def _wait(self, number: int, timeout_s: float, pace: Pace) -> None:
        """Wait for the answer: sleep first and look then, as the pace says, and at last until the worker rings."""
        words, clock = self._words, time.perf_counter
        started = clock()
        sleep_s, look_until_s = pace.plan
        if sleep_s:
            self._nap(number, started + min(sleep_s, timeout_s), pace)
            if words[ANSWERED] == number:
                return pace.overslept(clock() - started)
        until = started + min(look_until_s, timeout_s)
        while words[ANSWERED] != number:
            if clock() > until:
                self._sleep(number, timeout_s)
                return pace.answered(clock() - started)
        if sleep_s or not number % _LEARN_EVERY:
            pace.answered(clock() - started)
        return None

    def _nap(self, number: int, until: float, pace: Pace) -> None:
        """Sleep until a time (performance counter), or until the answer is there."""
        words = self._words
        words[CLIENT_SLEEPS] = 1
        try:
            while words[ANSWERED] != number:
                left_s = until - time.perf_counter()
                if left_s <= 0.0:
                    return pace.woken(-left_s)
                if select.select([self._connection], [], [], left_s)[0] and words[ANSWERED] != number:
                    self._hear()  # an earlier ring, or the worker's end
        finally:
            words[CLIENT_SLEEPS] = 0

    def _sleep(self, number: int, timeout_s: float) -> None:
        """Sleep until the worker rings."""
        words, deadline = self._words, time.monotonic() + timeout_s
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
        if waiting[_KIND] == _RING_KIND:
            self._connection.recv(len(_RING))
        else:  # the worker refused what it read, or is out of its mind
            raise ConnectionResetError("the worker refused the request")
