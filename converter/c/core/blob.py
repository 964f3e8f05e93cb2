# SPDX-License-Identifier: Apache-2.0
"""The model blob: one model as data for a microcontroller. ``firmware/kernels/include/edgefleet/blob.h`` is its twin.

Little-endian and position-independent: header, kernel variants, layers, inputs and outputs, names, then each layer's
parameters (arena offsets, geometry, weights), then vectors. The same calls and plan give the same bytes.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converter.c.core.lowering import Layer, LoweredGraph
from converter.c.core.memory_plan import MemoryPlan
from converter.c.core.program import Target, Value
from edgefleet.contracts.errors import UnsupportedModelError

FORMAT = 1
MAGIC = b"EFB1"
HEADER = struct.Struct("<4sHHIIHHIHBBIHHIIIIIII32s32s")
LAYER = struct.Struct("<HHIBBHI")
VARIANT = struct.Struct("<II")
END = struct.Struct("<IIIBBHfi6i")
NUMERICS = {"tflm/1": 1, "litert/1": 2}
KERNEL_SETS = {"portable": 0, "dsp": 1, "helium": 2}
DTYPES = {"int8": 0, "int32": 1, "float32": 2}
SECTION_ALIGNMENT = 16
_LAYER_ALIGNMENT = 8
_RANK_LIMIT = 6
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


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


def fnv1a(data: bytes) -> int:
    """Return the 32-bit FNV-1a hash (Fowler, Noll, Vo; draft-eastlake-fnv)."""
    state = _FNV_OFFSET
    for byte in data:
        state = (state ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return state


def write_blob(graph: LoweredGraph, plan: MemoryPlan, ends: Ends, target: Target, model_sha256: bytes) -> Blob:
    """Write a blob.

    Raises:
        UnsupportedModelError: an input or output has more axes than a blob can say.
    """
    layers = [*graph.once, *graph.layers]
    variants = tuple(sorted({layer.call.variant for layer in layers}))
    _check_ids(variants)
    names = _Names()
    variants_at = HEADER.size
    layers_at = _aligned(variants_at + VARIANT.size * len(variants))
    ends_at = _aligned(layers_at + LAYER.size * len(layers))
    names_at = ends_at + END.size * (len(ends.inputs) + len(ends.outputs))
    variant_table = b"".join(VARIANT.pack(fnv1a(name.encode()), names.put(name, names_at)) for name in variants)
    end_table = _ends(graph, plan, ends, names, names_at)
    body, placed = _parameters(graph, plan, _aligned(names_at + len(names.data)))
    layer_table = b"".join(_record(each, variants.index(each.layer.call.variant)) for each in placed)
    tables = variant_table + bytes(layers_at - variants_at - len(variant_table)) + layer_table
    fingerprint = fnv1a(tables + struct.pack("<IH", plan.arena_bytes, len(graph.once)))
    rest = _joined(
        HEADER.size,
        {variants_at: variant_table, layers_at: layer_table, ends_at: end_table, names_at: bytes(names.data)},
        body,
    )
    header = HEADER.pack(
        MAGIC, FORMAT, 0, HEADER.size + len(rest), layers_at, len(layers), len(graph.once), variants_at, len(variants),
        NUMERICS[target.numerics], KERNEL_SETS[target.kernel_set], ends_at, len(ends.inputs), len(ends.outputs),
        plan.arena_bytes, plan.state_at, plan.state_bytes, plan.scratch_bytes, 0, 0, fingerprint,
        model_sha256, hashlib.sha256(rest).digest(),
    )  # fmt: skip
    return Blob(header + rest, placed, len(graph.once), fingerprint, variants)


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
    if rank > _RANK_LIMIT:
        raise UnsupportedModelError(
            f"the tensor '{value.name}' has {rank} axes, and inputs and outputs have at most {_RANK_LIMIT}",
            hint="reshape it in the model",
        )
    shape = (*value.shape, *[0] * (_RANK_LIMIT - rank))
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
        start = _aligned(start + len(body[start]), _LAYER_ALIGNMENT)
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


def _joined(base: int, sections: Mapping[int, bytes], body: Mapping[int, bytes]) -> bytes:
    data = bytearray()
    for start, section in sorted({**sections, **body}.items()):
        data += bytes(start - base - len(data)) + section
    return bytes(data) + bytes(-len(data) % SECTION_ALIGNMENT)


def _aligned(place: int, alignment: int = SECTION_ALIGNMENT) -> int:
    return -(-place // alignment) * alignment
