# SPDX-License-Identifier: Apache-2.0
"""From an int8 flatbuffer to a model blob and C."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from converter.c.core.blob import Ends, with_vectors, write_blob
from converter.c.core.blob_format import Vector
from converter.c.core.constant_channels import Narrowed, without_constant_channels
from converter.c.core.lowering import check_ends, lower_graph
from converter.c.core.memory_plan import plan_memory
from converter.c.core.program import Graph, Target, Value
from converter.c.core.source import write_sources
from converter.c.core.variants import RUNTIME_SOURCES, kernel_sources
from converter.c.reading import read_graph


@dataclass(frozen=True)
class LayerFacts:
    """One layer: what it computes, which operator of the file it belongs to, and the value that it makes.

    ``value`` is the tensor's number, or ``None`` for what only the generated code knows.
    """

    number: int
    operator: int
    operator_name: str
    variant: str
    note: str
    value: int | None
    output_bytes: int
    macs: int


@dataclass(frozen=True)
class Generated:
    """A model as C.

    ``sources`` are the generated files by name; ``kernel_sources`` the files of ``firmware/kernels`` that they call.
    ``arena_bytes`` counts tensors, scratch and state. ``layers`` are those of an inference; their numbers are what
    ``yield`` is called with. ``narrowed`` says which values lost channels that never change, and what those are.
    """

    name: str
    target: Target
    blob: bytes
    sources: Mapping[str, str]
    kernel_sources: tuple[str, ...]
    variants: tuple[str, ...]
    arena_bytes: int
    scratch_bytes: int
    state_bytes: int
    layers: tuple[LayerFacts, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    narrowed: Mapping[int, Narrowed]


def generate(model: bytes, *, name: str, target: Target, vectors: Sequence[Vector] = ()) -> Generated:
    """Write a model as C for a target; ``name`` is a C identifier, ``vectors`` are the blob's parity vectors.

    Raises:
        UnsupportedModelError: the model is damaged, or has something that no C can be written for.
    """
    graph = read_graph(model)
    check_ends(graph)
    slimmed = without_constant_channels(graph, target)
    lowered = lower_graph(slimmed.graph, target)
    plan = plan_memory(lowered)
    ends = Ends(_values(graph, graph.inputs), _values(graph, graph.outputs))
    blob = write_blob(lowered, plan, ends, target, hashlib.sha256(model).digest())
    blob = replace(blob, data=with_vectors(blob.data, vectors))
    layers = tuple(
        LayerFacts(
            number=number,
            operator=placed.layer.operator.number,
            operator_name=placed.layer.operator.name,
            variant=placed.layer.call.variant,
            note=placed.layer.call.note,
            value=_value_number(placed.layer.call.outputs),
            output_bytes=placed.output_bytes,
            macs=placed.layer.call.macs,
        )
        for number, placed in enumerate(blob.layers)
        if number >= blob.once
    )
    return Generated(
        name=name,
        target=target,
        blob=blob.data,
        sources=write_sources(name, blob, plan, ends, target),
        kernel_sources=(*kernel_sources(blob.variants), *RUNTIME_SOURCES),
        variants=blob.variants,
        arena_bytes=plan.arena_bytes,
        scratch_bytes=plan.scratch_bytes,
        state_bytes=plan.state_bytes,
        layers=layers,
        inputs=tuple(ends.inputs),
        outputs=tuple(ends.outputs),
        narrowed=slimmed.narrowed,
    )


def _values(graph: Graph, numbers: tuple[int, ...]) -> tuple[Value, ...]:
    return tuple(graph.values[number] for number in numbers)


def _value_number(outputs: tuple[int | str, ...]) -> int | None:
    first = outputs[0] if outputs else None
    return first if isinstance(first, int) else None
