# SPDX-License-Identifier: Apache-2.0
"""The local inference protocol: frames over a Unix stream socket, little-endian, easy to write in C.

A frame is ``u32 length`` (of what follows, at most 64 MiB) and a body that starts with ``u8 kind, u8 version (1)``.
Requests on one connection are answered in order; a connection may send the next request before the answer came.

==========  ==============================================================================================
kind        body after ``kind, version``
==========  ==============================================================================================
1 infer     ``u16 tensors, u64 deadline_us`` (CLOCK_MONOTONIC, microseconds; 0: none), then the tensors
2 feedback  ``u16 label_bytes, u64 request_id``, then the label (UTF-8: a class number or a label's name)
3 info      ``u16 0``
129 answer  ``u8 status, u8 0, u64 request_id, i32 top_class, f32 confidence, u16 release_bytes,
            u16 label_bytes, u16 detail_bytes, u16 tensors``, then release, label, detail (UTF-8), the tensors
==========  ==============================================================================================

A tensor is ``u8 dtype, u8 rank, u16 0, u32 dimension`` (``rank`` times) and the raw values, in C order.
Inputs are the product's raw inputs: the bundle's preprocessing and quantization happen in the worker. Outputs are
de-quantized float32. ``top_class`` is -1 and ``request_id`` 0 where there is no answer. A frame that cannot be
read gets the status ``bad-input`` and the connection is closed.
"""

import math
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from edgefleet.contracts.errors import MessageError

VERSION = 1
FRAME_LIMIT_BYTES = 64 << 20
TENSOR_LIMIT = 64
RANK_LIMIT = 8
INFER, FEEDBACK, INFO, ANSWER = 1, 2, 3, 129

Status = Literal["ok", "no-model", "bad-input", "failed", "deadline", "unknown-request"]
STATUSES: tuple[Status, ...] = ("ok", "no-model", "bad-input", "failed", "deadline", "unknown-request")
#: Wire number of each dtype, and its size in bytes.
DTYPES = {"float32": 0, "float16": 1, "int8": 2, "uint8": 3, "int16": 4, "int32": 5, "int64": 6, "bool": 7}
_SIZES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}
_DTYPE_NAMES = {number: name for name, number in DTYPES.items()}

_LENGTH = struct.Struct("<I")
_REQUEST = struct.Struct("<BBHQ")
_INFO = struct.Struct("<BBH")
_ANSWER = struct.Struct("<BBBBQifHHHH")
_TENSOR = struct.Struct("<BBH")


class Tensor(NamedTuple):
    """Raw values with their dtype's name and shape."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


class InferRequest(NamedTuple):
    """One sample, one tensor an input, and until when an answer is of use (CLOCK_MONOTONIC; 0: always)."""

    tensors: tuple[Tensor, ...]
    deadline_us: int = 0


class FeedbackRequest(NamedTuple):
    """What an earlier answer should have been: a class number or a label's name."""

    request_id: int
    label: str


class InfoRequest(NamedTuple):
    """Asks which release answers."""


class AnswerFrame(NamedTuple):
    """What the worker answers; ``release`` is ``name version`` of the model that answered."""

    status: Status
    request_id: int = 0
    top_class: int = -1
    confidence: float = 0.0
    release: str = ""
    label: str = ""
    detail: str = ""
    tensors: tuple[Tensor, ...] = ()


Request = InferRequest | FeedbackRequest | InfoRequest


def frame(body: bytes) -> bytes:
    """Put the length in front of a body."""
    return _LENGTH.pack(len(body)) + body


def frame_length(head: bytes) -> int:
    """Read a frame's length out of its first four bytes.

    Raises:
        MessageError: it is over the limit.
    """
    length: int = _LENGTH.unpack(head)[0]
    if length > FRAME_LIMIT_BYTES:
        raise _malformed(f"announces {length} bytes, over the limit of {FRAME_LIMIT_BYTES}")
    return length


def encode_request(request: Request) -> bytes:
    """Encode a request's body."""
    if isinstance(request, InferRequest):
        head = _REQUEST.pack(INFER, VERSION, len(request.tensors), request.deadline_us)
        return head + _encode_tensors(request.tensors)
    if isinstance(request, FeedbackRequest):
        label = request.label.encode()
        return _REQUEST.pack(FEEDBACK, VERSION, len(label), request.request_id) + label
    return _INFO.pack(INFO, VERSION, 0)


def decode_request(body: bytes | bytearray) -> Request:
    """Decode a request's body.

    Raises:
        MessageError: it is not a request of this version.
    """
    view = memoryview(body)
    kind = _kind(view)
    if kind == INFO and len(view) == _INFO.size:
        return InfoRequest()
    if kind not in (INFER, FEEDBACK) or len(view) < _REQUEST.size:
        raise _malformed(f"is of kind {kind} and {len(view)} bytes long, which is no request")
    _, _, count, number = _REQUEST.unpack_from(view)
    rest = view[_REQUEST.size :]
    if kind == INFER:
        return InferRequest(_decode_tensors(rest, count), number)
    if len(rest) != count:
        raise _malformed(f"has a label of {len(rest)} bytes, where it announces {count}")
    return FeedbackRequest(number, _text(rest))


def encode_answer(answer: AnswerFrame) -> bytes:
    """Encode an answer's body."""
    release, label, detail = answer.release.encode(), answer.label.encode(), answer.detail[:250].encode()
    head = _ANSWER.pack(
        ANSWER,
        VERSION,
        STATUSES.index(answer.status),
        0,
        answer.request_id,
        answer.top_class,
        answer.confidence,
        len(release),
        len(label),
        len(detail),
        len(answer.tensors),
    )
    return b"".join((head, release, label, detail, _encode_tensors(answer.tensors)))


def decode_answer(body: bytes | bytearray) -> AnswerFrame:
    """Decode an answer's body.

    Raises:
        MessageError: it is not an answer of this version.
    """
    view = memoryview(body)
    if _kind(view) != ANSWER or len(view) < _ANSWER.size:
        raise _malformed("is no answer")
    _, _, status, _, request_id, top, confidence, *sizes, count = _ANSWER.unpack_from(view)
    if status >= len(STATUSES):
        raise _malformed(f"has the unknown status {status}")
    texts, at = [], _ANSWER.size
    for size in sizes:
        texts.append(_text(view[at : at + size]))
        at += size
    if at > len(view):
        raise _malformed("is shorter than it announces")
    release, label, detail = texts
    tensors = _decode_tensors(view[at:], count)
    return AnswerFrame(STATUSES[status], request_id, top, confidence, release, label, detail, tensors)


def _kind(view: memoryview) -> int:
    if len(view) < _INFO.size:
        raise _malformed(f"has {len(view)} bytes, too few for any kind")
    if view[1] != VERSION:
        raise _malformed(f"has version {view[1]}, expected {VERSION}")
    return view[0]


def _encode_tensors(tensors: Sequence[Tensor]) -> bytes:
    parts: list[bytes | memoryview] = []
    for tensor in tensors:
        parts.append(_TENSOR.pack(DTYPES[tensor.dtype], len(tensor.shape), 0))
        parts.append(struct.pack(f"<{len(tensor.shape)}I", *tensor.shape))
        parts.append(tensor.data)
    return b"".join(parts)


def _decode_tensors(view: memoryview, count: int) -> tuple[Tensor, ...]:
    if count > TENSOR_LIMIT:
        raise _malformed(f"has {count} tensors, over the limit of {TENSOR_LIMIT}")
    tensors, at = [], 0
    for _ in range(count):
        tensor, at = _decode_tensor(view, at)
        tensors.append(tensor)
    if at != len(view):
        raise _malformed(f"has {len(view) - at} bytes behind its last tensor")
    return tuple(tensors)


def _decode_tensor(view: memoryview, at: int) -> tuple[Tensor, int]:
    if len(view) < at + _TENSOR.size:
        raise _malformed("ends within a tensor")
    number, rank, _ = _TENSOR.unpack_from(view, at)
    at += _TENSOR.size
    if number not in _DTYPE_NAMES or rank > RANK_LIMIT or len(view) < at + 4 * rank:
        raise _malformed(f"has a tensor of dtype number {number} and rank {rank}")
    shape: tuple[int, ...] = struct.unpack_from(f"<{rank}I", view, at)
    at += 4 * rank
    dtype = _DTYPE_NAMES[number]
    size_bytes = _SIZES[dtype] * math.prod(shape)
    if _SIZES[dtype] * math.prod(dimension for dimension in shape if dimension) > FRAME_LIMIT_BYTES:
        raise _malformed(f"has a tensor of shape {list(shape)}, which no frame can hold")
    if len(view) < at + size_bytes:
        raise _malformed(f"ends within a tensor of shape {list(shape)}")
    return Tensor(dtype, shape, view[at : at + size_bytes]), at + size_bytes


def _text(view: memoryview) -> str:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("has a text that is not UTF-8") from error


def _malformed(what: str) -> MessageError:
    return MessageError(f"an inference frame {what}", hint="see the protocol in device_agent.inference_protocol")
