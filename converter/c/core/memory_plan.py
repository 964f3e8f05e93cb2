# SPDX-License-Identifier: Apache-2.0
"""Where a generated program's tensors, scratch and state lie in its arena.

Time counts layers: layer ``i`` runs at time ``i``; those that run when the arena is bound have negative times, so that
one plan serves both. An input lives from time -1 (it is written before the first layer), an output until after the
last. A layer may write over its input where its kernel reads each element before it writes there, nobody reads the
input later, and the output is not larger; such pairs share one buffer. Sharing can also be in the way of a better plan,
so that plans with all, with some and with none of it are compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from converter.c.core.lowering import Layer, LoweredGraph
from converter.c.core.program import Call, Operand
from converter.core.board.arena import Buffer, Plan, aligned
from converter.core.board.arena_optimal import optimal


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes from the arena's start: of operands, and of each layer's scratch (those of ``once`` first).

    ``arena_bytes`` counts everything; ``state_bytes`` of it, at ``state_at``, keep their values between inferences.
    """

    places: Mapping[Operand, int]
    scratch: tuple[int, ...]
    arena_bytes: int
    scratch_bytes: int
    state_at: int
    state_bytes: int
    proved: bool


def plan_memory(graph: LoweredGraph) -> MemoryPlan:
    """Return the smallest plan found for a graph's calls."""
    choices = _choices(_pairs(graph))
    best = min((_planned(graph, choice) for choice in choices), key=lambda made: made[1].size_bytes)
    return _plan(graph, *best)


@dataclass(frozen=True)
class _Life:
    first: int
    last: int


Shared = Mapping[Operand, Operand]  # an operand whose memory is another's, which came before it


def _choices(shared: Shared) -> list[Shared]:
    """Return what may share: all pairs, all but one of them, none."""
    if not shared:
        return [{}]
    few = list(shared) if len(shared) <= _TRIED_SINGLY else []
    return [shared, *({k: v for k, v in shared.items() if k != left_out} for left_out in few), {}]


_TRIED_SINGLY = 8


def _times(graph: LoweredGraph) -> list[tuple[int, Layer]]:
    layers = [*graph.once, *graph.layers]
    return [(place - len(graph.once), layer) for place, layer in enumerate(layers)]


def _lives(graph: LoweredGraph) -> dict[Operand, _Life]:
    seen: dict[Operand, list[int]] = {}
    for time, layer in _times(graph):
        for operand in (*layer.call.inputs, *layer.call.outputs):
            if operand not in graph.states:
                seen.setdefault(operand, []).append(time)
    for operand in graph.inputs:
        seen.setdefault(operand, []).append(-1)
    for operand in graph.outputs:
        if operand not in graph.states:
            seen.setdefault(operand, []).append(len(graph.layers))
    return {operand: _Life(min(times), max(times)) for operand, times in seen.items()}


def _pairs(graph: LoweredGraph) -> Shared:
    """Return each output that may take an input's memory, and that input."""
    lives = _lives(graph)
    shared: dict[Operand, Operand] = {}
    for time, layer in _times(graph):
        made = layer.call.outputs[0] if layer.call.outputs else None
        if made is None or made not in lives or lives[made].first != time:
            continue
        for place in layer.call.in_place:
            given = layer.call.inputs[place]
            dies = given in lives and lives[given].last == time
            if dies and _read_at(layer.call, given) <= {*layer.call.in_place} and _fits(graph, made, given):
                shared[made] = given
                break
    return shared


def _read_at(call: Call, operand: Operand) -> set[int]:
    return {place for place, other in enumerate(call.inputs) if other == operand}


def _fits(graph: LoweredGraph, made: Operand, given: Operand) -> bool:
    return graph.sizes[made] <= graph.sizes[given]


def _root(shared: Shared, operand: Operand) -> Operand:
    while operand in shared:
        operand = shared[operand]
    return operand


def _planned(graph: LoweredGraph, shared: Shared) -> tuple[Shared, Plan, list[Operand | int]]:
    """Plan buffers of operands (roots of what is shared) and scratch; ``owners`` says whose each buffer is."""
    lives = _lives(graph)
    groups: dict[Operand, list[Operand]] = {}
    for operand in sorted(lives, key=_order):
        groups.setdefault(_root(shared, operand), []).append(operand)
    buffers: list[Buffer] = []
    owners: list[Operand | int] = []
    for root, members in groups.items():
        size_bytes = aligned(max(graph.sizes[member] for member in members))
        first, last = min(lives[m].first for m in members), max(lives[m].last for m in members)
        if size_bytes:
            buffers.append(Buffer(len(buffers), size_bytes, first, last))
            owners.append(root)
    for place, (time, layer) in enumerate(_times(graph)):
        if layer.call.scratch_bytes:
            buffers.append(Buffer(len(buffers), aligned(layer.call.scratch_bytes), time, time))
            owners.append(_Scratch(place))
    return shared, optimal(buffers), owners


class _Scratch(int):
    """The scratch of the layer of this place; its own type, so that it is no tensor's number."""


def _order(operand: Operand) -> tuple[int, int, str]:
    return (0, operand, "") if isinstance(operand, int) else (1, 0, operand)


def _plan(graph: LoweredGraph, shared: Shared, plan: Plan, owners: Sequence[Operand | int]) -> MemoryPlan:
    layers = _times(graph)
    scratch = [0] * len(layers)
    roots: dict[Operand, int] = {}
    for owner, offset in zip(owners, plan.offsets, strict=True):
        if isinstance(owner, _Scratch):
            scratch[owner] = offset
        else:
            roots[owner] = offset
    places = {operand: roots.get(_root(shared, operand), 0) for operand in _lives(graph)}
    states, end = _states(graph.states.items(), plan.size_bytes)
    return MemoryPlan(
        places={**places, **states},
        scratch=tuple(scratch),
        arena_bytes=end,
        scratch_bytes=max((aligned(layer.call.scratch_bytes) for _, layer in layers), default=0),
        state_at=plan.size_bytes,
        state_bytes=end - plan.size_bytes,
        proved=plan.proved,
    )


def _states(sizes: Iterable[tuple[str, int]], start: int) -> tuple[dict[Operand, int], int]:
    places: dict[Operand, int] = {}
    for name, size_bytes in sorted(sizes):
        places[name] = start
        start += aligned(size_bytes)
    return places, start
