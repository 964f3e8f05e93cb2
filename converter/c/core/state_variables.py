# SPDX-License-Identifier: Apache-2.0
"""State variables of streaming models: memory that lives as long as the arena.

A VAR_HANDLE names a variable, READ_VARIABLE and ASSIGN_VARIABLE copy it, CALL_ONCE gives first values through the graph
that runs when the arena is bound. A variable without first values begins at its zero point in TFLM, and cannot be read
in LiteRT.
"""

from converter.c.core.moves import Move, constant_call, fill_call, move_call
from converter.c.core.operands import ELEMENT_BYTES, byte_count, constant_bytes, described, input_value, output
from converter.c.core.program import Call, Graph, Lowered, Operator, Target, Value
from converter.c.core.refusals import unsupported

_TYPES = tuple(ELEMENT_BYTES)
_HANDING_ON = {
    *("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "PAD", "PADV2"),
    *("STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V"),
}


def lower_nothing(_operator: Operator, _graph: Graph, _target: Target) -> Lowered:
    """Write nothing for VAR_HANDLE and CALL_ONCE: names are resolved here, and first values are ``Graph.once``."""
    return Lowered()


def lower_read(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write the copy of a variable to a tensor, or none where nobody assigns the variable before the last reader.

    Raises:
        UnsupportedModelError: the variable has no name, no value yet, or a type that no kernel moves.
    """
    made = output(operator, graph, *_TYPES)
    state = _state(operator, graph)
    _require_assigned(operator, graph, state, target)
    states = {state: byte_count(made)}
    if _read_in_place(operator, graph, state, made):
        return Lowered(aliases={made.number: state}, states=states)
    move = Move((), byte_count(made))
    return Lowered((move_call(move, state, made.number, note=f"READ_VARIABLE {described(made)}"),), states=states)


def lower_assign(operator: Operator, graph: Graph, target: Target) -> Lowered:
    """Write the copy of a tensor, or of a constant, to a variable, and what the variable holds before.

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
    return Lowered((call,), states={state: byte_count(value)}, first=_first_values(graph, state, value, target))


def _first_values(graph: Graph, state: str, value: Value, target: Target) -> tuple[Call, ...]:
    """Return the call that fills a variable with its zero point, where the graph gives no first values itself."""
    given = any(_assigns(other, graph, state) for other in graph.once)
    if target.numerics != "tflm/1" or given or value.dtype != "int8" or value.zero_point == 0:
        return ()
    note = "the zero point until the first ASSIGN_VARIABLE"
    return (fill_call(state, start=0, count=byte_count(value), value=value.zero_point, note=note),)


def _require_assigned(operator: Operator, graph: Graph, state: str, target: Target) -> None:
    if target.numerics == "tflm/1":
        before: tuple[Operator, ...] = (*graph.once, *graph.operators)
    else:
        main = graph.operators
        before = (*graph.once, *(main[: main.index(operator)] if operator in main else ()))
    if not any(_assigns(other, graph, state) for other in before):
        raise unsupported(operator, "its variable has no value before it is first read: give it one through CALL_ONCE")


def _assigns(operator: Operator, graph: Graph, state: str) -> bool:
    return operator.name == "ASSIGN_VARIABLE" and _state(operator, graph) == state


def _state(operator: Operator, graph: Graph) -> str:
    """Return the name of the memory behind an operator's resource."""
    resource = input_value(operator, graph, 0).number
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
