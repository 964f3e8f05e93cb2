# SPDX-License-Identifier: Apache-2.0
"""What an application gives its client and gets from it, and how both look in the protocol's frames."""

import struct
import time
from typing import NamedTuple, Protocol

from device_agent.inference_protocol import DTYPES, AnswerFrame, Tensor
from edgefleet.contracts.errors import InputError, MessageError

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

#: What is due later than the protocol can say is never due.
_ENDLESS_US = float(1 << 64)


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

    ``status`` is ``ok``, ``no-model``, ``bad-input``, ``failed``, ``deadline``, ``busy`` or ``incompatible``; only with
    ``ok`` there are ``outputs``: one tuple of de-quantized values an output, flat, with its shape in ``shapes``.
    ``release`` is the model's name and version.
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


def tensor_of(value: "RawTensor | Buffer") -> Tensor:
    """Return an input as the protocol sends it.

    Raises:
        InputError: it has a dtype that models do not take.
    """
    if isinstance(value, RawTensor):
        if value.dtype not in DTYPES:
            raise InputError(f"an input has the dtype '{value.dtype}'", hint=f"use one of {', '.join(DTYPES)}")
        return Tensor(value.dtype, tuple(value.shape), value.data)
    view = memoryview(value)
    code = view.format.lstrip("<=@")
    if code not in _FORMATS or (code == "l" and view.itemsize != 8):
        raise InputError(f"an input has the element format '{view.format}'", hint=f"use one of {', '.join(DTYPES)}")
    return Tensor(_FORMATS[code], tuple(view.shape or ()), view.tobytes())


def local_answer(answer: AnswerFrame) -> LocalAnswer:
    """Return an answer as an application sees it.

    Raises:
        MessageError: its tensors are no outputs.
    """
    if any(tensor.dtype != "float32" for tensor in answer.tensors):
        raise MessageError("an answer has outputs that are not float32", hint="see device_agent.inference_protocol")
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


def due_us(deadline_s: float | None) -> int:
    """Return a request's deadline as the protocol has it: microseconds of the monotonic clock, 0 for none.

    Raises:
        InputError: it is not a number.
    """
    if deadline_s is None:
        return 0
    due = (time.monotonic() + deadline_s) * 1e6
    if due != due:
        raise InputError("a deadline is not a number", hint="give seconds from now on, or none")
    return 0 if due >= _ENDLESS_US else int(max(due, 1.0))


def left_s(deadline: float) -> float:
    """Return how long a socket may wait until a deadline (monotonic seconds): never 0, which means something else."""
    return max(deadline - time.monotonic(), 0.001)
