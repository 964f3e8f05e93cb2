# SPDX-License-Identifier: Apache-2.0
"""What a model blob is made of; ``firmware/kernels/include/edgefleet/blob.h`` is the twin for firmware."""

import hashlib
import struct
from dataclasses import astuple, dataclass, replace

FORMAT = 1
MAGIC = b"EFB1"
#: Flag of the header: each vector has a hash of each layer's output.
HASHED = 1
LAYER = struct.Struct("<HHIBBHI")
VARIANT = struct.Struct("<II")
END = struct.Struct("<IIIBBHfi6i")
NUMERICS = {"tflm/1": 1, "litert/1": 2}
KERNEL_SETS = {"portable": 0, "dsp": 1, "helium": 2}
DTYPES = {"int8": 0, "int32": 1, "float32": 2}
SECTION_ALIGNMENT = 16
LAYER_ALIGNMENT = 8
RANK_LIMIT = 6
_HEADER = struct.Struct("<4sHHIIHHIHBBIHHIIIIIII32s32s")
HEADER_BYTES = _HEADER.size
_HASH_BYTES = 8
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193
_FNV64_OFFSET, _FNV64_PRIME = 0xCBF29CE484222325, 0x100000001B3


@dataclass(frozen=True)
class Header:
    """The first 128 bytes, in order; offsets from the blob's first byte, sizes in bytes."""

    magic: bytes
    format: int
    flags: int
    blob_bytes: int
    layers_at: int
    layer_count: int
    once_count: int
    variants_at: int
    variant_count: int
    numerics: int
    kernel_set: int
    ends_at: int
    input_count: int
    output_count: int
    arena_bytes: int
    state_at: int
    state_bytes: int
    scratch_bytes: int
    vectors_at: int
    vector_count: int
    plan: int
    model_sha256: bytes
    body_sha256: bytes

    def pack(self) -> bytes:
        """Return the bytes."""
        return _HEADER.pack(*astuple(self))

    def around(self, body: bytes) -> bytes:
        """Return the whole blob: this header, with size and hash of what follows, and that."""
        digest = hashlib.sha256(body).digest()
        return replace(self, blob_bytes=HEADER_BYTES + len(body), body_sha256=digest).pack() + body

    @staticmethod
    def unpack(data: bytes) -> "Header":
        """Read the bytes; there must be enough."""
        return Header(*_HEADER.unpack_from(data))


@dataclass(frozen=True)
class Vector:
    """Inputs and the outputs that they must give, each one behind the other as they lie in memory.

    ``layers`` is the 64-bit FNV-1a of each layer's output, to name the first that differs, or empty.
    """

    inputs: bytes
    outputs: bytes
    layers: tuple[int, ...] = ()


def vector_bytes(layers: int, inputs_bytes: int, outputs_bytes: int) -> int:
    """Return what a vector takes in a blob: its hashes, inputs, outputs, and zeros up to a multiple of 8."""
    return aligned(_HASH_BYTES * layers + inputs_bytes + outputs_bytes, LAYER_ALIGNMENT)


def fnv1a(data: bytes) -> int:
    """Return the 32-bit FNV-1a hash (Fowler, Noll, Vo; draft-eastlake-fnv)."""
    state = _FNV_OFFSET
    for byte in data:
        state = (state ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return state


def fnv1a_64(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash."""
    state = _FNV64_OFFSET
    for byte in data:
        state = (state ^ byte) * _FNV64_PRIME & 0xFFFFFFFFFFFFFFFF
    return state


def plan_of(data: bytes, header: Header) -> int:
    """Return the fingerprint of a blob's layers: what code that calls them one by one relies on.

    It covers the tables of variants and layers (which lie behind each other), the arena's size, and how many run once.
    """
    end = header.layers_at + LAYER.size * header.layer_count
    tables = data[header.variants_at : end]
    return fnv1a(tables + struct.pack("<IH", header.arena_bytes, header.once_count))


def aligned(place: int, alignment: int = SECTION_ALIGNMENT) -> int:
    """Return a place or size rounded up."""
    return -(-place // alignment) * alignment
