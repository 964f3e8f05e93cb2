# SPDX-License-Identifier: Apache-2.0
"""From an engine's reply to the wire's answer; the usual one, of one output, is written straight into a buffer."""

import struct
from typing import NamedTuple

import msgspec

from device_agent.inference_protocol import (
    ANSWER,
    STATUSES,
    VERSION,
    AnswerFrame,
    Tensor,
    encode_answer,
    unanswerable,
)
from device_agent.worker.engine import Reply
from device_agent.worker.residents import Resident

#: How the body of an answer without a fault starts; then its number, top class and confidence, and after these what is
#: the same in many answers: sizes and texts, and what the tensor is.
_FINE = bytes((ANSWER, VERSION, STATUSES.index("ok"), 0))
_OWN = struct.Struct("<Qif")
_OWN_AT, _SIZES_AT = 4, 20
_REMEMBERED = 256


def encoded(reply: Reply) -> bytes:
    """Return an answer's body; of outputs that no frame can carry, the sentence that says so."""
    outputs = reply.outputs
    if why := unanswerable([output.shape for output in outputs]):
        return encode_answer(AnswerFrame("failed", release=reply.release, detail=f"the outputs are {why}"))
    tensors = tuple(Tensor("float32", o.shape, o.astype("<f4", copy=False).tobytes()) for o in outputs)
    return encode_answer(AnswerFrame._make((*msgspec.structs.astuple(reply)[:7], tensors)))


class _Form(NamedTuple):
    """What is the same in all answers with one label, where their numbers go, and how many bytes these are."""

    texts: bytes
    start: int
    end: int
    size_bytes: int


class ReplyWriter:
    """Writes bodies of answers into one buffer, and remembers what is the same in each answer of a model."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._resident: Resident | None = None
        self._forms: dict[str, _Form] = {}
        #: The form of what was written last.
        self._written: _Form | None = None

    def write(self, reply: Reply) -> int:
        """Write an answer's body and return its size; a body that does not fit is only told.

        The returned size is then larger than the buffer's.
        """
        resident, label = reply.resident, reply.label
        if resident is None or reply.status != "ok" or len(resident.outputs) != 1:
            return self._put(encoded(reply))
        if resident is not self._resident:
            self._resident = resident
            self._forms.clear()
        form = self._forms.get(label)
        numbers = resident.real_bytes(reply.kept)
        if form is None or len(numbers) != form.size_bytes:
            return self._learn(label, encoded(reply), len(numbers))
        buffer = self._buffer
        if form is not self._written:
            buffer[:_OWN_AT] = _FINE
            buffer[_SIZES_AT : form.start] = form.texts
            self._written = form
        _OWN.pack_into(buffer, _OWN_AT, reply.request_id, reply.top_class, reply.confidence)
        buffer[form.start : form.end] = numbers
        return form.end

    def _learn(self, label: str, body: bytes, size_bytes: int) -> int:
        """Write a whole body, and remember its form."""
        end = len(body)
        if end <= len(self._buffer) and len(self._forms) < _REMEMBERED:
            start = end - size_bytes
            self._forms[label] = _Form(body[_SIZES_AT:start], start, end, size_bytes)
        return self._put(body)

    def _put(self, body: bytes) -> int:
        self._written = None
        if len(body) <= len(self._buffer):
            self._buffer[: len(body)] = body
        return len(body)
