# SPDX-License-Identifier: Apache-2.0
"""From a flatbuffer to the graph that the generator works on."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from converter.adapters.flatbuffers.reading import read_model
from converter.c.core.program import Graph, Operator, Value
from edgefleet.contracts.errors import UnsupportedModelError

_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
_DTYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_ARRAYS = {
    "int8": "<i1", "uint8": "<u1", "int16": "<i2", "int32": "<i4", "int64": "<i8", "float32": "<f4", "bool": "|b1",
}  # fmt: skip
_LOWEST_NIBBLE = 8
#: Values of the graph that gives first values to state variables are numbered from here on.
_SUBGRAPH_STEP = 1 << 20
#: Generated C counts elements and bytes in 32 bits with a sign.
_MOST_ELEMENTS = (1 << 29) - 1

Tree = Any  # schema.ModelT, which is untyped


def read_graph(model: bytes) -> Graph:
    """Read an int8 model as the generator's graph.

    Raises:
        UnsupportedModelError: the model is damaged, or its shapes, constants or subgraphs cannot become constant C.
    """
    tree = read_model(model)
    main = tree.subgraphs[0]
    operators = tuple(_operators(tree, 0))
    called = _called_once(tree, operators)
    once = tuple(operator for number in called for operator in _operators(tree, number))
    values = {number: value for subgraph in (0, *called) for number, value in _values(tree, subgraph)}
    graph = Graph(values, operators, _numbers(main.inputs), _numbers(main.outputs), once)
    _check_order(graph)
    return graph


def _called_once(tree: Tree, operators: tuple[Operator, ...]) -> tuple[int, ...]:
    """Return the numbers of the subgraphs that give first values to state variables; there may be no others."""
    options = (operator.options for operator in operators if operator.name == "CALL_ONCE")
    called = tuple(dict.fromkeys(int(each.get("initSubgraphIndex", 0)) for each in options))
    unknown = [number for number in called if not 0 < number < len(tree.subgraphs)]
    if unknown:
        raise _damaged(f"CALL_ONCE names subgraph {unknown[0]}, and the model has {len(tree.subgraphs)}")
    others = len(tree.subgraphs) - 1 - len(called)
    if others:
        raise UnsupportedModelError(
            f"the model has {others} more subgraph{'s' if others > 1 else ''} than CALL_ONCE names, and C is written "
            "for one graph without branches and loops",
            hint="export one signature, without IF and WHILE",
        )
    return called


def _check_order(graph: Graph) -> None:
    """Refuse values that are read before they are made, made twice, or nowhere."""
    known = {number for number, value in graph.values.items() if value.data is not None}
    for operator in graph.once:
        _check_operator(operator, graph, known)
    known |= {*graph.inputs}
    for operator in graph.operators:
        _check_operator(operator, graph, known)
    for number in (*graph.inputs, *graph.outputs):
        if number not in known or number not in graph.values:
            raise _damaged(f"its output tensor {number} is computed by no operator")


def _check_operator(operator: Operator, graph: Graph, known: set[int]) -> None:
    which = f"its operator {operator.number} ({operator.name})"
    for number in operator.inputs:
        if number >= 0 and number not in known:
            raise _damaged(f"{which} reads tensor {number % _SUBGRAPH_STEP} before it is computed")
    for number in operator.outputs:
        if number not in graph.values:
            raise _damaged(f"{which} writes tensor {number % _SUBGRAPH_STEP}, which is not there")
        if number in known:
            raise _damaged(f"{which} writes tensor {number % _SUBGRAPH_STEP}, which is there already")
    known.update(operator.outputs)


def _damaged(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the model contradicts itself: {what}", hint="export the model again")


def _operators(tree: Tree, subgraph: int) -> Iterator[Operator]:
    base = subgraph * _SUBGRAPH_STEP
    for number, operator in enumerate(tree.subgraphs[subgraph].operators):
        if not 0 <= operator.opcodeIndex < len(tree.operatorCodes or ()):
            raise _damaged(f"its operator {number} has the code {operator.opcodeIndex}, which is not there")
        code = tree.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = _OPERATORS.get(builtin, str(builtin))
        if name == "CUSTOM":
            name = (code.customCode or b"CUSTOM").decode("utf-8", "replace")
        yield Operator(
            number, name, _numbers(operator.inputs, base), _numbers(operator.outputs, base), _options(operator)
        )


def _options(operator: Any) -> Mapping[str, int | float | bool | str]:
    options = operator.builtinOptions
    if options is None:
        return {}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in vars(options).items()
        if isinstance(value, int | float | bool | str | bytes)
    }


def _values(tree: Tree, subgraph: int) -> Iterator[tuple[int, Value]]:
    for number, tensor in enumerate(tree.subgraphs[subgraph].tensors or (), start=subgraph * _SUBGRAPH_STEP):
        yield number, _value(tree, tensor, number)


def _value(tree: Tree, tensor: Any, number: int) -> Value:
    name = (tensor.name or b"").decode("utf-8", "replace")
    shape = _numbers(tensor.shape)
    _check_shape(name, shape, _numbers(tensor.shapeSignature))
    if tensor.sparsity is not None:
        raise UnsupportedModelError(f"the tensor '{name}' is sparse", hint="export the model with dense weights")
    dtype = _DTYPES.get(tensor.type, str(tensor.type))
    quantization = tensor.quantization
    scales = () if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale))
    zeros = () if quantization is None or quantization.zeroPoint is None else tuple(map(int, quantization.zeroPoint))
    return Value(
        number,
        name,
        shape,
        dtype,
        scales,
        zero_point=_one_zero_point(name, zeros),
        channel_axis=int(quantization.quantizedDimension) if quantization is not None else 0,
        data=_constant(tree, tensor, name, dtype, shape),
    )


def _check_shape(name: str, shape: tuple[int, ...], signature: tuple[int, ...]) -> None:
    """Refuse what is only known at run time; a free batch dimension is taken as the shape says."""
    if min(shape, default=1) < 0 or any(size < 0 for size in signature[1:]):
        raise UnsupportedModelError(
            f"the tensor '{name}' has a dynamic shape ({'x'.join(map(str, signature or shape))}); C needs fixed ones",
            hint="export the model with fixed input shapes",
        )
    if math.prod(shape) > _MOST_ELEMENTS:
        raise UnsupportedModelError(
            f"the tensor '{name}' has {math.prod(shape):,} elements, and generated C counts to {_MOST_ELEMENTS:,}",
            hint="choose a smaller model",
        )


def _one_zero_point(name: str, zeros: tuple[int, ...]) -> int:
    if len(set(zeros)) > 1:
        raise UnsupportedModelError(
            f"the tensor '{name}' has several zero points, and TFLite's specification allows one",
            hint="quantize the model again",
        )
    if zeros and not -(1 << 31) <= zeros[0] < 1 << 31:
        raise _damaged(f"the zero point of its tensor '{name}' is {zeros[0]}, which no type has")
    return zeros[0] if zeros else 0


def _constant(tree: Tree, tensor: Any, name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic] | None:
    raw = tree.buffers[tensor.buffer].data if tensor.buffer < len(tree.buffers) else None
    if raw is None or len(raw) == 0 or (dtype != "int4" and dtype not in _ARRAYS):
        return None
    data = np.frombuffer(bytes(raw), dtype=np.uint8)
    elements = math.prod(shape)
    expected = -(-elements // 2) if dtype == "int4" else elements * np.dtype(_ARRAYS[dtype]).itemsize
    if len(data) != expected:
        raise _damaged(f"its constant '{name}' has {len(data)} bytes, expected {expected}")
    if dtype == "int4":
        return _unpacked(data, elements).reshape(shape)
    return data.view(_ARRAYS[dtype]).reshape(shape)


def _unpacked(data: npt.NDArray[np.uint8], elements: int) -> npt.NDArray[np.int8]:
    """Return two weights of each byte, the low nibble first, sign extended."""
    nibbles = np.stack([data & 15, data >> 4], axis=1).ravel()[:elements].astype(np.int8)
    signed: npt.NDArray[np.int8] = (nibbles ^ _LOWEST_NIBBLE) - _LOWEST_NIBBLE
    return signed.astype(np.int8)


def _numbers(values: Any, base: int = 0) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) + base if int(value) >= 0 else int(value) for value in values)
