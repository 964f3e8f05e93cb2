# SPDX-License-Identifier: Apache-2.0
"""What may be asked of the signer: typed requests only. There is no "sign these bytes".

``offline`` asks for metadata that a person carries to devices without a network: it may live for years.

A frame is a 4-byte big-endian length and that many bytes of MessagePack. Times are Unix seconds.
"""

import struct
from collections.abc import Callable
from socket import socket

import msgspec

from edgefleet.contracts.enrolment import SignedRenewal
from edgefleet.contracts.manifest import Fact, Natural, Positive
from edgefleet.contracts.names import Name, Sha256, Version

FRAME_LIMIT_BYTES = 32 << 20
_LENGTH = struct.Struct(">I")


class SignSnapshot(Fact, frozen=True, kw_only=True, tag=True):
    """List this top-level targets metadata and these delegated ones; each must have its threshold of signatures."""

    version: Positive
    expires_at: float
    offline: bool = False
    targets: bytes
    delegated: dict[str, bytes]


class SignTimestamp(Fact, frozen=True, kw_only=True, tag=True):
    """Point at a snapshot that this signer signed, and that is not older than the one pointed at before."""

    version: Positive
    expires_at: float
    offline: bool = False
    snapshot: bytes


class OpenRollout(Fact, frozen=True, kw_only=True, tag=True):
    """A rollout of an approved release begins; ``policy`` is the file that the release was approved with."""

    name: Name
    version: Version
    policy: bytes


class SignAssignment(Fact, frozen=True, kw_only=True, tag=True):
    """Order one device to run approved bundles, one of each product at most; ``version`` is of all three files.

    ``renewal_grace_until`` (Unix seconds) lets the device renew a certificate that has lapsed until then. ``lift`` are
    approved bundles that the device may try again although it has them in quarantine.
    """

    device: Name
    profile: Name
    counter: Natural
    version: Positive
    expires_at: float
    offline: bool = False
    target_paths: tuple[str, ...] = ()
    renewal_grace_until: Natural | None = None
    lift: tuple[Sha256, ...] = ()


class SignCertificate(Fact, frozen=True, kw_only=True, tag=True):
    """Issue a device's certificate for the key of its request."""

    device: Name
    profile: Name
    csr_pem: str


class RenewCertificate(Fact, frozen=True, kw_only=True, tag=True):
    """Issue a device's next certificate upon the proof that it has the key of one before."""

    proof: SignedRenewal


class Decommission(Fact, frozen=True, kw_only=True, tag=True):
    """Sign nothing for this device from now on."""

    device: Name


Request = (
    SignSnapshot | SignTimestamp | OpenRollout | SignAssignment | SignCertificate | RenewCertificate | Decommission
)


class Signed(Fact, frozen=True, kw_only=True, tag=True):
    """One signed file."""

    content: bytes = b""


class SignedAssignment(Fact, frozen=True, kw_only=True, tag=True):
    """The director's three files for one device."""

    targets: bytes
    snapshot: bytes
    timestamp: bytes


class Refused(Fact, frozen=True, kw_only=True, tag=True):
    """A check of the signer said no; ``code`` is that of the error class."""

    code: str
    message: str
    hint: str


Answer = Signed | SignedAssignment | Refused

_encode = msgspec.msgpack.encode
decode_request: Callable[[bytes], Request] = msgspec.msgpack.Decoder(Request).decode
decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode


def send_frame(channel: socket, value: Request | Answer) -> None:
    """Send one request or answer."""
    data = _encode(value)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive_frame(channel: socket) -> bytes | None:
    """Return the next frame's bytes, or None when the other side is gone."""
    head = _receive(channel, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > FRAME_LIMIT_BYTES:
        return None
    return _receive(channel, length)


def _receive(channel: socket, count: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < count:
        piece = channel.recv(min(count - len(pieces), 1 << 20))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)
