# SPDX-License-Identifier: Apache-2.0
"""A whole graph as kernel calls in order, and how many bytes each thing that they touch needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from converter.c.core.moves import constant_call
from converter.c.core.operands import ELEMENT_BYTES, byte_count, constant_bytes, described
from converter.c.core.program import Call, Graph, Lowered, Operand, Operator, Target
from converter.c.core.refusals import unsupported
from converter.c.core.weightless import WEIGHTLESS, Lowering
from converter.c.core.with_weights import WITH_WEIGHTS
from edgefleet.contracts.errors import UnsupportedModelError

LOWERINGS: Mapping[str, Lowering] = {**WITH_WEIGHTS, **WEIGHTLESS}


@dataclass(frozen=True)
class Layer:
    """One call, and the operator that it belongs to."""

    call: Call
    operator: Operator


@dataclass(frozen=True)
class LoweredGraph:
    """A graph as calls.

    ``once`` runs when the arena is bound, ``layers`` for each inference. ``sizes`` gives the bytes of every operand
    that lies in the arena, ``states`` of those that keep their value. ``inputs`` and ``outputs`` are the operands that
    hold the graph's own.
    """

    layers: tuple[Layer, ...]
    once: tuple[Layer, ...]
    sizes: Mapping[Operand, int]
    states: Mapping[str, int]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]


def lower_graph(graph: Graph, target: Target) -> LoweredGraph:
    """Write all operators of a graph as calls.

    Raises:
        UnsupportedModelError: an operator that cannot be written as C, by name, number and reason.
    """
    walk = _Walk(graph, target)
    layers = (*walk.operators(graph.operators, "layer"), *walk.constant_outputs())
    once = tuple(walk.operators(graph.once, "once"))
    ends = (*graph.inputs, *graph.outputs)
    operands = {operand for layer in (*walk.first, *once, *layers) for operand in _operands(layer.call)}
    sizes = {operand: walk.size(operand) for operand in {*operands, *map(walk.resolved, ends)}}
    return LoweredGraph(
        layers,
        (*walk.first, *once),
        sizes,
        walk.states,
        tuple(map(walk.resolved, graph.inputs)),
        tuple(map(walk.resolved, graph.outputs)),
    )


def _operands(call: Call) -> tuple[Operand, ...]:
    return (*call.inputs, *call.outputs)


class _Walk:
    """What is learnt on the way through a graph."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self._graph, self._target = graph, target
        self._aliases: dict[Operand, Operand] = {}
        self._written: set[Operand] = set()
        self._temporaries: dict[str, int] = {}
        self.states: dict[str, int] = {}
        self.first: list[Layer] = []

    def operators(self, operators: tuple[Operator, ...], where: str) -> Iterator[Layer]:
        """Yield the layers of operators in order."""
        for operator in operators:
            lowered = _lowering(operator)(operator, self._graph, self._target)
            prefix = f"{where} {operator.number}: "
            self._learn(lowered, prefix, operator)
            self.first += [Layer(self._named(call, prefix), operator) for call in lowered.first]
            for call in (self._named(call, prefix) for call in lowered.calls):
                yield from self._constants(call.inputs, operator)
                yield Layer(call, operator)

    def constant_outputs(self) -> Iterator[Layer]:
        """Yield the layers that write those of the graph's outputs that are constants."""
        yield from self._constants(tuple(map(self.resolved, self._graph.outputs)), self._graph.operators[-1])

    def size(self, operand: Operand) -> int:
        """Return the bytes of an operand."""
        if isinstance(operand, str):
            return self.states[operand] if operand in self.states else self._temporaries[operand]
        return byte_count(self._graph.values[operand])

    def resolved(self, operand: Operand) -> Operand:
        """Return whose memory an operand is."""
        while operand in self._aliases:
            operand = self._aliases[operand]
        return operand

    def _constants(self, operands: tuple[Operand, ...], operator: Operator) -> Iterator[Layer]:
        """Yield a layer for each constant that is read from the arena and is not there yet."""
        for operand in operands:
            value = self._graph.values[operand] if isinstance(operand, int) else None
            if value is not None and value.data is not None and operand not in self._written:
                self._written.add(operand)
                note = f"constant {described(value)}"
                yield Layer(constant_call(operand, constant_bytes(value), note=note), operator)

    def _learn(self, lowered: Lowered, prefix: str, operator: Operator) -> None:
        for name, size_bytes in lowered.states.items():
            self.states[name] = max(size_bytes, self.states.get(name, 0))
        self._temporaries |= {prefix + name: size for name, size in lowered.temporaries.items()}
        for value, operand in lowered.aliases.items():
            if self.resolved(operand) == value:
                raise unsupported(operator, f"its output {value} is its own input")
            self._aliases[value] = operand

    def _named(self, call: Call, prefix: str) -> Call:
        def named(operand: Operand) -> Operand:
            if isinstance(operand, str) and operand not in self.states:
                return prefix + operand
            return self.resolved(operand)

        return replace(call, inputs=tuple(map(named, call.inputs)), outputs=tuple(map(named, call.outputs)))


def _lowering(operator: Operator) -> Lowering:
    if operator.name not in LOWERINGS:
        raise unsupported(operator, "there is no kernel for it")
    return LOWERINGS[operator.name]


def check_ends(graph: Graph) -> None:
    """Check that inputs and outputs have types that an application can read and write.

    Raises:
        UnsupportedModelError: one has another type.
    """
    for number in (*graph.inputs, *graph.outputs):
        value = graph.values[number]
        if value.dtype not in ELEMENT_BYTES:
            raise UnsupportedModelError(
                f"the tensor '{value.name}' is {value.dtype}, and generated C has {', '.join(ELEMENT_BYTES)}",
                hint="quantize the model to int8, with int8 or float32 inputs and outputs",
            )
