# SPDX-License-Identifier: Apache-2.0
"""The model blob: one model as data for a microcontroller. ``firmware/kernels/include/edgefleet/blob.h`` is its twin.

Little-endian and position-independent: header, kernel variants, layers, inputs and outputs, names, then each layer's
parameters (arena offsets, geometry, weights), then vectors. The same calls and plan give the same bytes.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    aligned,
    fnv1a,
    plan_of,
    vector_bytes,
)
from converter.c.core.lowering import Layer, LoweredGraph
from converter.c.core.memory_plan import MemoryPlan
from converter.c.core.program import Target, Value
from edgefleet.contracts.errors import UnsupportedModelError


@dataclass(frozen=True)
class PlacedLayer:
    """A layer in the blob: where its parameters begin, and the bytes of its first output."""

    layer: Layer
    layer_at: int
    output_bytes: int


@dataclass(frozen=True)
class Blob:
    """A written blob: its layers in order (those of ``once`` first), and ``plan``, a fingerprint of its layers."""

    data: bytes
    layers: tuple[PlacedLayer, ...]
    once: int
    plan: int
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Ends:
    """The values that an application reads and writes."""

    inputs: Sequence[Value]
    outputs: Sequence[Value]


def write_blob(graph: LoweredGraph, plan: MemoryPlan, ends: Ends, target: Target, model_sha256: bytes) -> Blob:
    """Write a blob.

    Raises:
        UnsupportedModelError: an input or output has more axes than a blob can say.
    """
    layers = [*graph.once, *graph.layers]
    variants = tuple(sorted({layer.call.variant for layer in layers}))
    _check_ids(variants)
    names = _Names()
    variants_at = HEADER_BYTES
    layers_at = aligned(variants_at + VARIANT.size * len(variants))
    ends_at = aligned(layers_at + LAYER.size * len(layers))
    names_at = ends_at + END.size * (len(ends.inputs) + len(ends.outputs))
    variant_table = b"".join(VARIANT.pack(fnv1a(name.encode()), names.put(name, names_at)) for name in variants)
    end_table = _ends(graph, plan, ends, names, names_at)
    body, placed = _parameters(graph, plan, aligned(names_at + len(names.data)))
    layer_table = b"".join(_record(each, variants.index(each.layer.call.variant)) for each in placed)
    tables = {variants_at: variant_table, layers_at: layer_table, ends_at: end_table, names_at: bytes(names.data)}
    header = Header(
        magic=MAGIC,
        format=FORMAT,
        flags=0,
        blob_bytes=0,
        layers_at=layers_at,
        layer_count=len(layers),
        once_count=len(graph.once),
        variants_at=variants_at,
        variant_count=len(variants),
        numerics=NUMERICS[target.numerics],
        kernel_set=KERNEL_SETS[target.kernel_set],
        ends_at=ends_at,
        input_count=len(ends.inputs),
        output_count=len(ends.outputs),
        arena_bytes=plan.arena_bytes,
        state_at=plan.state_at,
        state_bytes=plan.state_bytes,
        scratch_bytes=plan.scratch_bytes,
        vectors_at=0,
        vector_count=0,
        plan=0,
        model_sha256=model_sha256,
        body_sha256=b"",
    )
    rest = _joined({**tables, **body})
    header = replace(header, plan=plan_of(bytes(HEADER_BYTES) + rest, header))
    return Blob(header.around(rest), placed, len(graph.once), header.plan, variants)


def with_vectors(data: bytes, vectors: Sequence[Vector]) -> bytes:
    """Return a blob without vectors, with these at its end. All have hashes of all layers, or none has.

    Code that was written for the blob runs this one as well.
    """
    header = Header.unpack(data)
    if not vectors:
        return data
    hashed = HASHED if vectors[0].layers else 0
    return replace(header, flags=hashed, vectors_at=len(data), vector_count=len(vectors)).around(
        _padded(data[HEADER_BYTES:] + b"".join(map(_vector, vectors)), SECTION_ALIGNMENT)
    )


def _vector(vector: Vector) -> bytes:
    hashes = struct.pack(f"<{len(vector.layers)}Q", *vector.layers)
    size = vector_bytes(len(vector.layers), len(vector.inputs), len(vector.outputs))
    return (hashes + vector.inputs + vector.outputs).ljust(size, b"\0")


class _Names:
    """Texts that end with a zero byte, one behind the other, each once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[str, int] = {}

    def put(self, name: str, base: int) -> int:
        if name not in self._places:
            self._places[name] = len(self.data)
            self.data += name.encode().replace(b"\0", b" ") + b"\0"
        return base + self._places[name]


def _check_ids(variants: Sequence[str]) -> None:
    if len({fnv1a(name.encode()) for name in variants}) != len(variants):
        raise UnsupportedModelError(
            "two kernel variants have the same identifier", hint="this is a fault of the generator: report the model"
        )


def _ends(graph: LoweredGraph, plan: MemoryPlan, ends: Ends, names: _Names, base: int) -> bytes:
    operands = (*graph.inputs, *graph.outputs)
    return b"".join(
        _end(value, plan.places[operand], graph.sizes[operand], names.put(value.name, base))
        for value, operand in zip((*ends.inputs, *ends.outputs), operands, strict=True)
    )


def _end(value: Value, place: int, size_bytes: int, name_at: int) -> bytes:
    rank = len(value.shape)
    if rank > RANK_LIMIT:
        raise UnsupportedModelError(
            f"the tensor '{value.name}' has {rank} axes, and inputs and outputs have at most {RANK_LIMIT}",
            hint="reshape it in the model",
        )
    shape = (*value.shape, *[0] * (RANK_LIMIT - rank))
    scale = value.scales[0] if value.scales else 0.0
    return END.pack(name_at, place, size_bytes, DTYPES[value.dtype], rank, 0, scale, value.zero_point, *shape)


def _parameters(
    graph: LoweredGraph, plan: MemoryPlan, start: int
) -> tuple[Mapping[int, bytes], tuple[PlacedLayer, ...]]:
    body: dict[int, bytes] = {}
    placed = []
    for place, layer in enumerate([*graph.once, *graph.layers]):
        call = layer.call
        offsets = [*(plan.places[operand] for operand in (*call.inputs, *call.outputs)), plan.scratch[place]]
        body[start] = struct.pack(f"<{len(offsets)}I", *offsets) + call.body
        output_bytes = graph.sizes[call.outputs[0]] if call.outputs else 0
        placed.append(PlacedLayer(layer, start, output_bytes))
        start = aligned(start + len(body[start]), LAYER_ALIGNMENT)
    return body, tuple(placed)


def _record(placed: PlacedLayer, variant: int) -> bytes:
    call = placed.layer.call
    return LAYER.pack(
        variant,
        placed.layer.operator.number,
        placed.layer_at,
        len(call.inputs),
        len(call.outputs),
        0,
        placed.output_bytes,
    )


def _joined(sections: Mapping[int, bytes]) -> bytes:
    """Return what follows the header: sections at their places, and zeros between them."""
    data = bytearray()
    for start, section in sorted(sections.items()):
        data += bytes(start - HEADER_BYTES - len(data)) + section
    return _padded(bytes(data), SECTION_ALIGNMENT)


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
