# SPDX-License-Identifier: Apache-2.0
"""The local inference protocol: frames over a Unix stream socket, little-endian, easy to write in C.

A frame is ``u32 length`` (of what follows, at most 64 MiB) and a body that starts with ``u8 kind, u8 version (1)``.
Requests on one connection are answered in order; a connection may send the next request before the answer came.

============  ============================================================================================
kind          body after ``kind, version``
============  ============================================================================================
1 infer       ``u16 tensors, u64 deadline_us`` (CLOCK_MONOTONIC, microseconds; 0: none), then the tensors
2 feedback    ``u16 label_bytes, u64 request_id``, then the label (UTF-8: a class number or a label's name);
              late, behind that: ``i32 predicted, u16 release_bytes``, then the release of the answer
3 info        ``u16 model_bytes``, then the model's name (none: the only one)
4 infer-model ``u16 tensors, u64 deadline_us, u16 model_bytes``, then the model's name, the tensors
5 declare     ``u16 0``, then a JSON document: the interface that the application was built for
6 share       ``u16 0, u32 request_bytes, u32 answer_bytes``: asks for shared memory
7 ring        ``u16 0``: look into the shared memory; no answer of its own
129 answer    ``u8 status, u8 0, u64 request_id, i32 top_class, f32 confidence, u16 release_bytes,
              u16 label_bytes, u16 detail_bytes, u16 tensors``, then release, label, detail (UTF-8), the tensors
130 ring      ``u16 0``: the answer is in the shared memory
============  ============================================================================================

A tensor is ``u8 dtype, u8 rank, u16 0, u32 dimension`` (``rank`` times) and the raw values, in C order.
Inputs are the product's raw inputs: the bundle's preprocessing and quantization happen in the worker. Outputs are
de-quantized float32. ``top_class`` is -1 and ``request_id`` 0 where there is no answer. A frame that cannot be
read gets the status ``bad-input`` and the connection is closed.

The answer to ``share`` carries a sealed memory file (SCM_RIGHTS), laid out as in :mod:`device_agent.shared_memory`:
bodies of requests and answers may go through it instead of the socket, one at a time.
"""

import math
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from edgefleet.contracts.errors import MessageError

VERSION = 1
FRAME_LIMIT_BYTES = 64 << 20
TENSOR_LIMIT = 64
RANK_LIMIT = 8
#: Longer texts are cut: an answer has two bytes for the length of each, and a character has up to four.
_LABEL_CHARACTERS, _DETAIL_CHARACTERS = 16_000, 250
#: What the tensors of an answer may take: a frame has room for its texts, too.
ANSWER_TENSORS_LIMIT_BYTES = FRAME_LIMIT_BYTES - (1 << 18)
INFER, FEEDBACK, INFO, INFER_MODEL, DECLARE, SHARE, RING, ANSWER, ANSWER_RING = 1, 2, 3, 4, 5, 6, 7, 129, 130

Status = Literal["ok", "no-model", "bad-input", "failed", "deadline", "unknown-request", "busy", "incompatible"]
#: In the order of their wire numbers; new ones come last.
STATUSES: tuple[Status, ...] = get_args(Status)
#: Wire number of each dtype, and its size in bytes.
DTYPES = {"float32": 0, "float16": 1, "int8": 2, "uint8": 3, "int16": 4, "int32": 5, "int64": 6, "bool": 7}
_SIZES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}
_DTYPE_NAMES = {number: name for name, number in DTYPES.items()}

_LENGTH = struct.Struct("<I")
_REQUEST = struct.Struct("<BBHQ")
_SHORT = struct.Struct("<BBH")
_MODEL = struct.Struct("<H")
_SHARE = struct.Struct("<BBHII")
_LATE = struct.Struct("<iH")
_ANSWER = struct.Struct("<BBBBQifHHHH")
_TENSOR = struct.Struct("<BBH")


#: Bodies without any content.
RING_BODY = _SHORT.pack(RING, VERSION, 0)
ANSWER_RING_BODY = _SHORT.pack(ANSWER_RING, VERSION, 0)


class Tensor(NamedTuple):
    """Raw values with their dtype's name and shape."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


class InferRequest(NamedTuple):
    """One sample, one tensor an input, and until when an answer is of use (CLOCK_MONOTONIC; 0: always).

    ``model`` is the model's name, empty for the only one.
    """

    tensors: tuple[Tensor, ...]
    deadline_us: int = 0
    model: str = ""


class FeedbackRequest(NamedTuple):
    """What an earlier answer should have been: a class number or a label's name.

    ``release`` and ``predicted`` are that answer's own release and top class, for a worker that does not remember it.
    """

    request_id: int
    label: str
    release: str = ""
    predicted: int = -1


class InfoRequest(NamedTuple):
    """Asks which release answers for a model's name (empty: the only one)."""

    model: str = ""


class DeclareRequest(NamedTuple):
    """Says for which interface the application was built: a :class:`~edgefleet.contracts.interface.Declaration`."""

    document: bytes


class ShareRequest(NamedTuple):
    """Asks for shared memory with room for bodies of these sizes."""

    request_bytes: int
    answer_bytes: int


class RingRequest(NamedTuple):
    """Says that a request lies in the shared memory."""


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


Request = InferRequest | FeedbackRequest | InfoRequest | DeclareRequest | ShareRequest | RingRequest


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
    match request:
        case InferRequest():
            return _encode_infer(request)
        case FeedbackRequest():
            return _encode_feedback(request)
        case InfoRequest(model):
            name = model.encode()
            return _SHORT.pack(INFO, VERSION, len(name)) + name
        case DeclareRequest(document):
            return _SHORT.pack(DECLARE, VERSION, 0) + document
        case ShareRequest(request_bytes, answer_bytes):
            return _SHARE.pack(SHARE, VERSION, 0, request_bytes, answer_bytes)
        case RingRequest():
            return RING_BODY


def _encode_feedback(request: FeedbackRequest) -> bytes:
    text, release = request.label.encode(), request.release.encode()
    body = _REQUEST.pack(FEEDBACK, VERSION, len(text), request.request_id) + text
    return body + _LATE.pack(request.predicted, len(release)) + release if release else body


def _encode_infer(request: InferRequest) -> bytes:
    count, tensors = len(request.tensors), _encode_tensors(request.tensors)
    if not request.model:
        return _REQUEST.pack(INFER, VERSION, count, request.deadline_us) + tensors
    name = request.model.encode()
    head = _REQUEST.pack(INFER_MODEL, VERSION, count, request.deadline_us)
    return head + _MODEL.pack(len(name)) + name + tensors


def decode_request(body: bytes | bytearray | memoryview) -> Request:
    """Decode a request's body.

    Raises:
        MessageError: it is not a request of this version.
    """
    view = memoryview(body)
    kind = _kind(view)
    if kind in (INFER, FEEDBACK, INFER_MODEL) and len(view) >= _REQUEST.size:
        return _decode_long(kind, view)
    count: int = _SHORT.unpack_from(view)[2]
    rest = view[_SHORT.size :]
    if kind == INFO and len(rest) == count:
        return InfoRequest(_text(rest))
    if kind == DECLARE and count == 0:
        return DeclareRequest(bytes(rest))
    if kind == RING and not rest:
        return RingRequest()
    if kind == SHARE and len(view) == _SHARE.size:
        return ShareRequest(*_SHARE.unpack(view)[3:])
    raise _malformed(f"is of kind {kind} and {len(view)} bytes long, which is no request")


def _decode_long(kind: int, view: memoryview) -> InferRequest | FeedbackRequest:
    _, _, count, number = _REQUEST.unpack_from(view)
    rest = view[_REQUEST.size :]
    if kind == INFER:
        return InferRequest(_decode_tensors(rest, count), number)
    if kind == FEEDBACK:
        return _decode_feedback(rest, count, number)
    end = _MODEL.size + (_MODEL.unpack_from(rest)[0] if len(rest) >= _MODEL.size else len(rest))
    if len(rest) < end:
        raise _malformed("ends within the model's name")
    return InferRequest(_decode_tensors(rest[end:], count), number, _text(rest[_MODEL.size : end]))


def _decode_feedback(rest: memoryview, label_bytes: int, number: int) -> FeedbackRequest:
    label, late = rest[:label_bytes], rest[label_bytes:]
    if len(rest) == label_bytes:
        return FeedbackRequest(number, _text(label))
    if len(late) <= _LATE.size or len(late) != _LATE.size + _LATE.unpack_from(late)[1]:
        raise _malformed(f"has a label of {len(rest)} bytes, where it announces {label_bytes}")
    return FeedbackRequest(number, _text(label), _text(late[_LATE.size :]), _LATE.unpack_from(late)[0])


def encode_answer(answer: AnswerFrame) -> bytes:
    """Encode an answer's body."""
    release, label = answer.release.encode(), answer.label[:_LABEL_CHARACTERS].encode()
    detail = answer.detail[:_DETAIL_CHARACTERS].encode()
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


def unanswerable(shapes: Sequence[Sequence[int]]) -> str:
    """Say why no answer can carry float32 tensors of these shapes; empty if one can."""
    if len(shapes) > TENSOR_LIMIT:
        return f"{len(shapes)} tensors, and an answer has at most {TENSOR_LIMIT}"
    if (rank := max(map(len, shapes), default=0)) > RANK_LIMIT:
        return f"a tensor of {rank} dimensions, and an answer's have at most {RANK_LIMIT}"
    size_bytes = sum(_TENSOR.size + 4 * len(shape) + _SIZES["float32"] * math.prod(shape) for shape in shapes)
    if size_bytes > ANSWER_TENSORS_LIMIT_BYTES:
        return f"{size_bytes} bytes of tensors, and an answer has room for {ANSWER_TENSORS_LIMIT_BYTES}"
    return ""


def decode_answer(body: bytes | bytearray | memoryview) -> AnswerFrame:
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
    if len(view) < _SHORT.size:
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
