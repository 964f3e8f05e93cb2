# SPDX-License-Identifier: Apache-2.0
"""State variables of streaming models: memory that lives as long as the arena.

A VAR_HANDLE names a variable, READ_VARIABLE and ASSIGN_VARIABLE copy it, CALL_ONCE gives first values through the graph
that runs when the arena is bound.
"""

from converter.c.core.moves import Move, constant_call, move_call
from converter.c.core.operands import ELEMENT_BYTES, byte_count, constant_bytes, described, input_value, output
from converter.c.core.program import Graph, Lowered, Operator, Target, Value
from converter.c.core.refusals import unsupported

_TYPES = tuple(ELEMENT_BYTES)
_HANDING_ON = {
    *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "PAD", "PADV2"),
    *("STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V"),
}


def lower_nothing(_operator: Operator, _graph: Graph, _target: Target) -> Lowered:
    """Write nothing for VAR_HANDLE and CALL_ONCE: names are resolved here, and first values are ``Graph.once``."""
    return Lowered()


def lower_read(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write the copy of a variable to a tensor, or none where nobody assigns the variable before the last reader.

    Raises:
        UnsupportedModelError: the variable has no name, or a type that no kernel moves.
    """
    made = output(operator, graph, *_TYPES)
    state = _state(operator, graph)
    states = {state: byte_count(made)}
    if _read_in_place(operator, graph, state, made):
        return Lowered(aliases={made.number: state}, states=states)
    move = Move((), byte_count(made))
    return Lowered((move_call(move, state, made.number, note=f"READ_VARIABLE {described(made)}"),), states=states)


def lower_assign(operator: Operator, graph: Graph, _target: Target) -> Lowered:
    """Write the copy of a tensor, or of a constant, to a variable.

    Raises:
        UnsupportedModelError: the variable has no name, or a type that no kernel moves.
    """
    value = input_value(operator, graph, 1)
    if value.dtype not in _TYPES:
        raise unsupported(operator, f"{value.name} is {value.dtype}, which no kernel moves")
    state = _state(operator, graph)
    note = f"ASSIGN_VARIABLE {described(value)}"
    if value.data is not None:
        call = constant_call(state, constant_bytes(value), note=note)
    else:
        call = move_call(Move((), byte_count(value)), value.number, state, note=note)
    return Lowered((call,), states={state: byte_count(value)})


def _state(operator: Operator, graph: Graph) -> str:
    """Return the name of the memory behind an operator's resource."""
    resource = operator.inputs[0]
    for handle in (*graph.operators, *graph.once):
        if handle.name == "VAR_HANDLE" and resource in handle.outputs:
            container, name = (str(handle.options.get(key) or "") for key in ("container", "sharedName"))
            return f"state:{container}/{name}"
    raise unsupported(operator, f"its variable {graph.values[resource].name} has no VAR_HANDLE")


def _read_in_place(operator: Operator, graph: Graph, state: str, made: Value) -> bool:
    """Tell whether a variable's value may be read where it lies: it is not changed before its last reader has run."""
    if made.number in graph.outputs or operator not in graph.operators:
        return False
    place = graph.operators.index(operator)
    later = list(enumerate(graph.operators))[place + 1 :]
    readers = [number for number, other in later if made.number in other.inputs]
    if any(_may_hand_on(graph.operators[number]) for number in readers):
        return False
    changes = [number for number, other in later if other.name == "ASSIGN_VARIABLE" and _state(other, graph) == state]
    return not changes or not readers or max(readers) < min(changes)


def _may_hand_on(reader: Operator) -> bool:
    """Tell whether an operator may give its output the memory of its input, so that later ones read it there."""
    return reader.name in _HANDING_ON or (reader.name == "CONCATENATION" and len(reader.inputs) == 1)
