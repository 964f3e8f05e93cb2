# SPDX-License-Identifier: Apache-2.0
"""Reading model blobs strictly: whatever a writer would not have written is refused."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from converter.c.core.blob_format import (
    DTYPES,
    END,
    FORMAT,
    HASHED,
    HEADER_BYTES,
    KERNEL_SETS,
    LAYER,
    LAYER_ALIGNMENT,
    MAGIC,
    NUMERICS,
    RANK_LIMIT,
    SECTION_ALIGNMENT,
    VARIANT,
    Header,
    Vector,
    fnv1a,
    plan_of,
    vector_bytes,
)
from converter.c.core.operands import ELEMENT_BYTES
from edgefleet.contracts.errors import UnsupportedModelError

_NUMERICS = {number: name for name, number in NUMERICS.items()}
_KERNEL_SETS = {number: name for name, number in KERNEL_SETS.items()}
_DTYPES = {number: name for name, number in DTYPES.items()}
_HASH = struct.Struct("<Q")


@dataclass(frozen=True)
class BlobLayer:
    """One layer: its kernel variant, arena offsets, and where in the blob its parameters begin.

    ``once`` marks layers that run when the arena is bound.
    """

    variant: str
    operator: int
    layer_at: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scratch: int
    output_bytes: int
    once: bool


@dataclass(frozen=True)
class BlobEnd:
    """An input or output. ``scale`` is 0 where the tensor is not quantized."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    arena_at: int
    size_bytes: int


@dataclass(frozen=True)
class BlobFacts:
    """What a blob says; sizes and offsets in bytes. ``layers`` begin with those that run once.

    ``layers_end`` is where the parameters of the last one end.
    """

    size_bytes: int
    numerics: str
    kernel_set: str
    arena_bytes: int
    scratch_bytes: int
    state_at: int
    state_bytes: int
    plan: int
    model_sha256: bytes
    variants: tuple[str, ...]
    layers: tuple[BlobLayer, ...]
    layers_end: int
    inputs: tuple[BlobEnd, ...]
    outputs: tuple[BlobEnd, ...]
    vectors: tuple[Vector, ...]


def read_blob(data: bytes) -> BlobFacts:
    """Read a blob, all of it: ``data`` ends where it ends.

    Raises:
        UnsupportedModelError: it is damaged, cut off, or of another format: the message says what is wrong.
    """
    header = _header(data)
    _check_tables(data, header)
    variants = tuple(_variants(data, header))
    layers = tuple(_layers(data, header, variants))
    ends = tuple(_ends(data, header))
    inputs, outputs = ends[: header.input_count], ends[header.input_count :]
    return BlobFacts(
        size_bytes=header.blob_bytes,
        numerics=_named(_NUMERICS, header.numerics, "numerics mode"),
        kernel_set=_named(_KERNEL_SETS, header.kernel_set, "kernel set"),
        arena_bytes=header.arena_bytes,
        scratch_bytes=header.scratch_bytes,
        state_at=header.state_at,
        state_bytes=header.state_bytes,
        plan=header.plan,
        model_sha256=header.model_sha256,
        variants=variants,
        layers=layers,
        layers_end=header.vectors_at or header.blob_bytes,
        inputs=inputs,
        outputs=outputs,
        vectors=tuple(_vectors(data, header, inputs, outputs)),
    )


def _refused(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the model blob is damaged: {what}", hint="export the model again")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _refused(what)


def _header(data: bytes) -> Header:
    if data[: len(MAGIC)] != MAGIC:
        raise UnsupportedModelError(
            f"this is no model blob: it begins with {data[:4]!r}, expected {MAGIC!r}",
            hint="model blobs are written by 'edgefleet export'",
        )
    _require(len(data) >= HEADER_BYTES, f"it has {len(data)} bytes, and its header has {HEADER_BYTES}")
    header = Header.unpack(data)
    if header.format != FORMAT:
        raise UnsupportedModelError(
            f"the model blob has the format {header.format}, expected {FORMAT}", hint="use a newer edgefleet"
        )
    _require(header.blob_bytes == len(data), f"it has {len(data)} bytes, and says {header.blob_bytes}")
    _require(len(data) % SECTION_ALIGNMENT == 0, f"its {len(data)} bytes are no multiple of {SECTION_ALIGNMENT}")
    _require(not header.flags & ~HASHED, f"it has the flags {header.flags:#x}, which nobody knows")
    _require(hashlib.sha256(data[HEADER_BYTES:]).digest() == header.body_sha256, "its bytes have another SHA-256")
    return header


def _check_tables(data: bytes, header: Header) -> None:
    ends = header.input_count + header.output_count
    for what, at, count, size in (
        ("variants", header.variants_at, header.variant_count, VARIANT.size),
        ("layers", header.layers_at, header.layer_count, LAYER.size),
        ("inputs and outputs", header.ends_at, ends, END.size),
    ):
        inside = at >= HEADER_BYTES and at % SECTION_ALIGNMENT == 0 and at + count * size <= len(data)
        _require(inside, f"its table of {what} lies at {at}, outside of its {len(data)} bytes or between boundaries")
    _require(header.variants_at <= header.layers_at, "its table of layers comes before that of variants")
    _require(header.once_count <= header.layer_count, "more layers run once than it has")
    _require(header.input_count > 0 and header.output_count > 0, "it has no inputs, or no outputs")
    state_end = header.state_at + header.state_bytes
    _require(state_end <= header.arena_bytes and header.scratch_bytes <= header.arena_bytes, "its arena is too small")
    _require(plan_of(data, header) == header.plan, "its layers are not those that it names as its plan")


def _variants(data: bytes, header: Header) -> Iterator[str]:
    for place in range(header.variant_count):
        number, name_at = VARIANT.unpack_from(data, header.variants_at + place * VARIANT.size)
        name = _text(data, name_at)
        _require(number == fnv1a(name.encode()), f"its kernel '{name}' has another identifier")
        yield name


def _layers(data: bytes, header: Header, variants: tuple[str, ...]) -> Iterator[BlobLayer]:
    for place in range(header.layer_count):
        variant, operator, layer_at, inputs, outputs, flags, output_bytes = LAYER.unpack_from(
            data, header.layers_at + place * LAYER.size
        )
        which = f"its layer {place}"
        _require(variant < len(variants), f"{which} has the kernel {variant}, which it does not name")
        _require(flags == 0, f"{which} has the flags {flags:#x}, which nobody knows")
        words = struct.Struct(f"<{inputs + outputs + 1}I")
        inside = layer_at >= HEADER_BYTES and layer_at % LAYER_ALIGNMENT == 0 and layer_at + words.size <= len(data)
        _require(inside, f"{which} lies at {layer_at}, outside of its {len(data)} bytes or between boundaries")
        offsets = words.unpack_from(data, layer_at)
        sound = all(at % SECTION_ALIGNMENT == 0 and at <= header.arena_bytes for at in offsets)
        _require(sound, f"{which} lies outside of the arena")
        if outputs:
            _require(offsets[inputs] + output_bytes <= header.arena_bytes, f"{which} writes behind the arena")
        yield BlobLayer(
            variants[variant],
            operator,
            layer_at,
            offsets[:inputs],
            offsets[inputs:-1],
            offsets[-1],
            output_bytes,
            place < header.once_count,
        )


def _ends(data: bytes, header: Header) -> Iterator[BlobEnd]:
    for place in range(header.input_count + header.output_count):
        name_at, arena_at, size_bytes, dtype, rank, unused, scale, zero_point, *shape = END.unpack_from(
            data, header.ends_at + place * END.size
        )
        name = _text(data, name_at)
        kind = _named(_DTYPES, dtype, "type of tensor")
        _require(rank <= RANK_LIMIT and not any(shape[rank:]) and unused == 0, f"the shape of '{name}' is none")
        _require(min(shape[:rank], default=1) >= 0, f"the shape of '{name}' is none")
        expected = prod(shape[:rank]) * ELEMENT_BYTES[kind]
        _require(size_bytes == expected, f"'{name}' has {size_bytes} bytes, and its shape {expected}")
        inside = arena_at % SECTION_ALIGNMENT == 0 and arena_at + size_bytes <= header.arena_bytes
        _require(inside, f"'{name}' lies outside of the arena")
        yield BlobEnd(name, kind, tuple(shape[:rank]), scale, zero_point, arena_at, size_bytes)


def _vectors(
    data: bytes, header: Header, inputs: tuple[BlobEnd, ...], outputs: tuple[BlobEnd, ...]
) -> Iterator[Vector]:
    in_bytes, out_bytes = (sum(end.size_bytes for end in ends) for ends in (inputs, outputs))
    hashes = header.layer_count - header.once_count if header.flags & HASHED else 0
    size = vector_bytes(hashes, in_bytes, out_bytes)
    end = header.vectors_at + size * header.vector_count
    inside = header.vectors_at % SECTION_ALIGNMENT == 0 and end <= len(data)
    _require(inside and (header.vectors_at > 0) == (header.vector_count > 0), "its vectors lie outside of it")
    for at in range(header.vectors_at, end, size):
        words = tuple(_HASH.unpack_from(data, at + 8 * n)[0] for n in range(hashes))
        start = at + 8 * hashes
        yield Vector(data[start : start + in_bytes], data[start + in_bytes : start + in_bytes + out_bytes], words)


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at) if HEADER_BYTES <= at < len(data) else -1
    _require(end >= 0, f"a name lies at {at}, and does not end in it")
    try:
        return data[at:end].decode()
    except UnicodeDecodeError as error:
        raise _refused(f"the name at {at} is not UTF-8") from error


def _named(names: dict[int, str], number: int, what: str) -> str:
    _require(number in names, f"it has the {what} {number}, which nobody knows")
    return names[number]
