# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON (RFC 8785) and hashes: equal facts give equal bytes."""

import hashlib
from pathlib import Path

import msgspec
import rfc8785

from edgefleet.contracts.files import open_regular

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> bytes:
    """Encode a msgspec structure, or plain JSON types, as RFC 8785 canonical JSON."""
    return rfc8785.dumps(msgspec.to_builtins(value))


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while piece := stream.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
