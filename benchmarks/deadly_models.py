# SPDX-License-Identifier: Apache-2.0
"""Models that harm the process which runs them: flatbuffers that this runtime loads, or tries to, without a hook.

All were found by trying on ai-edge-litert 2.3.0: what it checks (indices, shapes, buffers, strides) only fails, and is
no danger; these get through.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchmarks.bad_models import Graph, brightest

_FLOAT, _INT32, _BOOL = 0, 2, 6
_RESOURCE = 13
_OPERATOR, _OPTIONS = schema.BuiltinOperator, schema.BuiltinOptions
_LOWEST = np.iinfo(np.int32).min


def crash_in_load(graph: Graph) -> None:
    """A branch of the graph is the graph itself: preparing it has no end, and the stack has one (SIGSEGV)."""
    yes = graph.tensor(graph.main, [], _BOOL, np.array(True))
    answer = graph.main.tensors[graph.main.outputs[0]]
    out = graph.tensor(graph.main, list(answer.shape), answer.type)
    options = schema.IfOptionsT()
    options.thenSubgraphIndex = options.elseSubgraphIndex = 0
    _with(graph.operator(graph.main, _OPERATOR.IF, [yes, graph.main.inputs[0]], [out]), "IfOptions", options)


def crash_in_invoke(graph: Graph) -> None:
    """The lowest integer modulo -1, which no processor of this kind can divide (SIGFPE)."""
    _modulo(graph, graph.tensor(graph.main, [1], _INT32, np.array([_LOWEST], np.int32)))


def crashes_on_blank(graph: Graph) -> None:
    """The same, with a number that is the lowest on a blank frame only."""
    light = brightest(graph)
    number = graph.tensor(graph.main, [], _INT32)
    scaled, moved = (graph.tensor(graph.main, [], _FLOAT) for _ in range(2))
    for value, code, name, given, made in (
        (float(2**31), _OPERATOR.MUL, "MulOptions", light, scaled),
        (float(2**31), _OPERATOR.SUB, "SubOptions", scaled, moved),
    ):
        constant = graph.tensor(graph.main, [], _FLOAT, np.array(value, np.float32))
        _with(graph.operator(graph.main, code, [given, constant], [made]), name, getattr(schema, f"{name}T")())
    _with(graph.operator(graph.main, _OPERATOR.CAST, [moved], [number]), "CastOptions", schema.CastOptionsT())
    _modulo(graph, number)


def nan_on_blank(graph: Graph) -> None:
    """Brightness is divided by itself, which a blank frame has none of."""
    light, output = brightest(graph), graph.main.outputs[0]
    share, none = (graph.tensor(graph.main, [], _FLOAT) for _ in range(2))
    zero = graph.tensor(graph.main, [], _FLOAT, np.array(0.0, np.float32))
    summed = graph.tensor(graph.main, list(graph.main.tensors[output].shape), _FLOAT)
    _with(graph.operator(graph.main, _OPERATOR.DIV, [light, light], [share]), "DivOptions", schema.DivOptionsT())
    _with(graph.operator(graph.main, _OPERATOR.MUL, [share, zero], [none]), "MulOptions", schema.MulOptionsT())
    _with(graph.operator(graph.main, _OPERATOR.ADD, [output, none], [summed]), "AddOptions", schema.AddOptionsT())
    graph.main.outputs = [summed]


def leaks(graph: Graph, integers: int = 16 << 10) -> None:
    """A variable gets longer with each inference, by 64 KiB."""
    _grow(graph, graph.tensor(graph.main, [integers], _INT32, np.zeros(integers, np.int32)))


def leaks_a_little(graph: Graph) -> None:
    """The same, by 1 KiB."""
    leaks(graph, 256)


def leaks_on_blank(graph: Graph, integers: int = 8 << 10) -> None:
    """The same, by 32 KiB, on a blank frame only."""
    dark, number, length = (graph.tensor(graph.main, [], kind) for kind in (_BOOL, _INT32, _INT32))
    half = graph.tensor(graph.main, [], _FLOAT, np.array(0.5, np.float32))
    less = graph.operator(graph.main, _OPERATOR.LESS, [brightest(graph), half], [dark])
    _with(less, "LessOptions", schema.LessOptionsT())
    _with(graph.operator(graph.main, _OPERATOR.CAST, [dark], [number]), "CastOptions", schema.CastOptionsT())
    longest = graph.tensor(graph.main, [1], _INT32, np.array([integers], np.int32))
    graph.main.tensors[length].shape = [1]
    _with(graph.operator(graph.main, _OPERATOR.MUL, [number, longest], [length]), "MulOptions", schema.MulOptionsT())
    zero = graph.tensor(graph.main, [], _INT32, np.array(0, np.int32))
    more = graph.tensor(graph.main, [1], _INT32)
    graph.main.tensors[more].shapeSignature = np.array([-1], np.int32)
    _with(graph.operator(graph.main, _OPERATOR.FILL, [length, zero], [more]), "FillOptions", schema.FillOptionsT())
    _grow(graph, more)


def _grow(graph: Graph, more: int) -> None:
    """Let a variable get longer by a tensor with each inference."""
    start = graph.subgraph()
    start.name = b"start"
    _assign(graph, start, graph.tensor(start, [1], _INT32, np.zeros(1, np.int32)))
    options = schema.CallOnceOptionsT()
    options.initSubgraphIndex = graph.subgraphs - 1
    _with(graph.operator(graph.main, _OPERATOR.CALL_ONCE, [], []), "CallOnceOptions", options)
    kept, longer = (graph.tensor(graph.main, [1], _INT32) for _ in range(2))
    graph.main.tensors[kept].shape = []  # of unknown rank, so that its length is asked for each time
    graph.main.tensors[longer].shapeSignature = np.array([-1], np.int32)
    read = graph.operator(graph.main, _OPERATOR.READ_VARIABLE, [_handle(graph, graph.main)], [kept])
    _with(read, "ReadVariableOptions", schema.ReadVariableOptionsT())
    joined = graph.operator(graph.main, _OPERATOR.CONCATENATION, [kept, more], [longer])
    _with(joined, "ConcatenationOptions", schema.ConcatenationOptionsT())
    _assign(graph, graph.main, longer)


def slower_and_slower(graph: Graph) -> None:
    """The same, by 16 KiB, all of which is copied each time: the hundredth inference copies 3 MiB."""
    leaks(graph, 4 << 10)


def _modulo(graph: Graph, number: int) -> None:
    shape = list(graph.main.tensors[number].shape)
    divisor = graph.tensor(graph.main, shape, _INT32, np.full(shape, -1, np.int32))
    rest = graph.tensor(graph.main, shape, _INT32)
    operator = graph.operator(graph.main, _OPERATOR.FLOOR_MOD, [number, divisor], [rest])
    _with(operator, "FloorModOptions", schema.FloorModOptionsT())


def _handle(graph: Graph, where: Any) -> int:
    handle = graph.tensor(where, [], _RESOURCE)
    options = schema.VarHandleOptionsT()
    options.container, options.sharedName = b"", b"kept"
    _with(graph.operator(where, _OPERATOR.VAR_HANDLE, [], [handle]), "VarHandleOptions", options)
    return handle


def _assign(graph: Graph, where: Any, value: int) -> None:
    operator = graph.operator(where, _OPERATOR.ASSIGN_VARIABLE, [_handle(graph, where), value], [])
    _with(operator, "AssignVariableOptions", schema.AssignVariableOptionsT())


def _with(operator: Any, name: str, options: Any) -> None:
    operator.builtinOptionsType, operator.builtinOptions = getattr(_OPTIONS, name), options
