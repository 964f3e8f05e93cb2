# SPDX-License-Identifier: Apache-2.0
"""From an engine's reply to the wire's answer; the usual one, of one output, is written straight into a buffer."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agent.inference_protocol import ANSWER, VERSION, AnswerFrame, Tensor, encode_answer
from device_agent.worker.engine import Reply
from device_agent.worker.residents import Resident

_HEAD = struct.Struct("<BBBBQifHHHH")
_TENSOR = struct.Struct("<BBH")


def encoded(reply: Reply) -> bytes:
    """Return an answer's body."""
    tensors = tuple(Tensor("float32", o.shape, o.astype("<f4", copy=False).tobytes()) for o in reply.outputs)
    return encode_answer(AnswerFrame(*reply[:7], tensors))


class ReplyWriter:
    """Writes bodies of answers into a buffer, and remembers what is the same in each answer of a model."""

    def __init__(self) -> None:
        self._resident: Resident | None = None
        self._texts: dict[str, tuple[int, int, bytes]] = {}
        self._tensor = b""
        self._size_bytes = 0

    def write(self, reply: Reply, buffer: memoryview) -> int:
        """Write an answer's body at the buffer's start and return its size; a body that does not fit is only told.

        The returned size is then larger than the buffer's.
        """
        resident = reply.resident
        if resident is None or len(reply.tensors) != 1 or reply.status != "ok":
            return _put(encoded(reply), buffer)
        if resident is not self._resident:
            self._learn(resident)
        release_bytes, label_bytes, texts = self._texts.get(reply.label) or self._text(resident, reply.label)
        start = _HEAD.size + len(texts)
        end = start + self._size_bytes
        if end > len(buffer):
            return end
        _HEAD.pack_into(
            buffer, 0, ANSWER, VERSION, 0, 0, reply.request_id, reply.top_class, reply.confidence, release_bytes,
            label_bytes, 0, 1,
        )  # fmt: skip
        buffer[_HEAD.size : start] = texts
        buffer[start:end] = _bytes_of(resident.real_one(reply.tensors[0]))
        return end

    def body(self, reply: Reply) -> bytes:
        """Return an answer's body."""
        return encoded(reply)

    def _learn(self, resident: Resident) -> None:
        shape = resident.outputs[0].shape
        self._resident = resident
        self._texts.clear()
        self._tensor = _TENSOR.pack(0, len(shape), 0) + struct.pack(f"<{len(shape)}I", *shape)
        self._size_bytes = 4 * int(np.prod(shape))

    def _text(self, resident: Resident, label: str) -> tuple[int, int, bytes]:
        release, name = resident.name.encode(), label.encode()
        made = len(release), len(name), release + name + self._tensor
        if len(self._texts) < 256:
            self._texts[label] = made
        return made


def _bytes_of(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values, "<f4").data.cast("B")


def _put(body: bytes, buffer: memoryview) -> int:
    if len(body) <= len(buffer):
        buffer[: len(body)] = body
    return len(body)
