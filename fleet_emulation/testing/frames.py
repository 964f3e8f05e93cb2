# SPDX-License-Identifier: Apache-2.0
"""The serial protocol of firmware/boards/answering.c: what a board that stays on is asked, and what it says.

A frame is 0x7E, a kind, the payload's length (u32, little-endian), the payload, and its FNV-1a hash (u32).
"""

import struct
from typing import NamedTuple

from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError, UnreachableError

HELLO, REQUEST, ANSWER, ERROR = b"H", b"Q", b"A", b"E"
_HEAD = struct.Struct("<ccI")
_HASH = struct.Struct("<I")
_SIZES = struct.Struct("<II")
HEAD_BYTES, HASH_BYTES = _HEAD.size, _HASH.size
_BEGIN = b"\x7e"
#: More than any tensor of a microcontroller's.
_LIMIT_BYTES = 16 << 20
_KINDS = (HELLO, ANSWER, ERROR)
_REASONS = {1: "the input's length is another one", 2: "the input arrived damaged", 3: "the inference failed"}


class Sort(NamedTuple):
    """What a frame's first bytes say."""

    kind: bytes
    payload_bytes: int


class Sizes(NamedTuple):
    """What a board takes and gives, in bytes."""

    input_bytes: int
    output_bytes: int


def hash_of(payload: bytes) -> int:
    """Return the 32-bit FNV-1a hash."""
    found = 2166136261
    for byte in payload:
        found = (found ^ byte) * 16777619 & 0xFFFFFFFF
    return found


def frame(kind: bytes, payload: bytes) -> bytes:
    """Return a frame as it goes over the line."""
    return _HEAD.pack(_BEGIN, kind, len(payload)) + payload + _HASH.pack(hash_of(payload))


def sort_of(head: bytes, name: str) -> Sort:
    """Return what a frame's first bytes say; ``name`` is the board's, for messages.

    Raises:
        UnreachableError: they are no frame's.
    """
    begin, kind, payload_bytes = _HEAD.unpack(head)
    if begin != _BEGIN or kind not in _KINDS or payload_bytes > _LIMIT_BYTES:
        raise UnreachableError(
            f"{name} says what is no frame: {head!r}", hint="it runs other firmware, or its memory is damaged"
        )
    return Sort(kind, payload_bytes)


def payload_of(body: bytes, name: str) -> bytes:
    """Return a frame's payload.

    Raises:
        UnreachableError: its hash is another one.
    """
    payload = body[:-HASH_BYTES]
    if _HASH.unpack(body[-HASH_BYTES:])[0] != hash_of(payload):
        raise UnreachableError(f"{name} sends a frame that is damaged", hint="its memory is damaged")
    return payload


def sizes_of(kind: bytes, payload: bytes, name: str) -> Sizes:
    """Return what a board's first frame says.

    Raises:
        UnreachableError: it is no such frame.
    """
    if kind != HELLO or len(payload) != _SIZES.size:
        raise UnreachableError(f"{name} does not begin with a greeting", hint="it runs other firmware")
    return Sizes(*_SIZES.unpack(payload))


def answer_of(kind: bytes, payload: bytes, name: str) -> bytes:
    """Return the output that an answer brings.

    Raises:
        ModelFailedError: the board says that it could not answer.
        EdgeFleetError: it started anew, without being asked to.
    """
    if kind == ANSWER:
        return payload
    if kind == ERROR:
        reason = _REASONS.get(payload[0] if payload else 0, "it does not say why")
        raise ModelFailedError(f"{name} does not answer: {reason}", hint="try one inference with edgefleet.board")
    raise EdgeFleetError(f"{name} started anew", hint="see what ends its firmware")
