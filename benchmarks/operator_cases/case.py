# SPDX-License-Identifier: Apache-2.0
"""A case: a small graph with inputs to try, and the flatbuffer that oracles load, written from the same graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from converter.c.core.program import Graph, Operator, Value

Array = npt.NDArray[Any]
_TYPES = {"int8": "INT8", "int4": "INT4", "int32": "INT32", "float32": "FLOAT32", "resource": "RESOURCE"}
#: Names of the schema's option tables where they are not the operator's in camel case.
_OPTIONS = {
    "ADD": "AddOptions",
    "ASSIGN_VARIABLE": "AssignVariableOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CALL_ONCE": "CallOnceOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "READ_VARIABLE": "ReadVariableOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPLIT": "SplitOptions",
    "SPLIT_V": "SplitVOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "VAR_HANDLE": "VarHandleOptions",
}
#: Versions that both oracles take, where 1 says another thing than int8.
_VERSIONS = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "RESIZE_NEAREST_NEIGHBOR"), 3),
    "FULLY_CONNECTED": 4,
    **dict.fromkeys(("ADD", "SUB", "MUL", "MEAN", "AVERAGE_POOL_2D", "MAX_POOL_2D", "SOFTMAX"), 2),
    **dict.fromkeys(("LOGISTIC", "TANH", "RELU", "RELU6", "LEAKY_RELU", "QUANTIZE", "DEQUANTIZE"), 2),
    **dict.fromkeys(("CONCATENATION", "PAD", "PADV2", "SLICE", "SPLIT", "SPLIT_V", "STRIDED_SLICE", "TRANSPOSE"), 2),
}


@dataclass(frozen=True)
class Case:
    """A graph, tensors for its inputs (for each step, where it has a memory), and the campaign's row it counts for.

    ``tflm_graph`` is the same with other types, where the wheel takes only those.
    """

    row: str
    graph: Graph
    steps: tuple[tuple[Array, ...], ...]
    tflm_graph: Graph | None = None


@dataclass
class GraphWriter:
    """Collects values and operators, numbered as they come."""

    values: dict[int, Value] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    once: list[Operator] = field(default_factory=list)

    def tensor(
        self,
        shape: Sequence[int],
        scale: float | Sequence[float] | None = None,
        zero_point: int = 0,
        *,
        dtype: str = "int8",
        data: Array | None = None,
        channel_axis: int = 0,
    ) -> int:
        """Add a tensor and return its number."""
        number = len(self.values)
        scales = () if scale is None else tuple(float(np.float32(one)) for one in np.atleast_1d(scale))
        shape = tuple(int(size) for size in shape)
        kept = None if data is None else np.ascontiguousarray(data).reshape(shape)
        self.values[number] = Value(number, f"t{number}", shape, dtype, scales, zero_point, channel_axis, kept)
        return number

    def integers(self, numbers: Any) -> int:
        """Add a constant of whole numbers."""
        data = np.asarray(numbers, np.int32)
        return self.tensor(data.shape, dtype="int32", data=data)

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Add an operator."""
        self.operators.append(self._numbered(name, inputs, outputs, options))

    def operator_once(self, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Add an operator to those that run once."""
        self.once.append(self._numbered(name, inputs, outputs, options))

    def _numbered(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Mapping[str, Any]
    ) -> Operator:
        return Operator(len(self.operators) + len(self.once), name, tuple(inputs), tuple(outputs), options)

    def case(
        self, row: str, inputs: Mapping[int, Array] | Sequence[Mapping[int, Array]], outputs: Sequence[int]
    ) -> Case:
        """Return the case with tensors by the number of the input, for one step or several."""
        steps = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        numbers = tuple(steps[0])
        graph = Graph(self.values, tuple(self.operators), numbers, tuple(outputs), tuple(self.once))
        return Case(row, graph, tuple(tuple(step[number] for number in numbers) for step in steps))


def flatbuffer(graph: Graph) -> bytes:
    """Return the model as a file; what runs once becomes the second subgraph."""
    model = schema.ModelT()
    model.version, model.description = 3, b""
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    main = _subgraph(model, graph, graph.operators)
    main.inputs, main.outputs = np.array(graph.inputs, np.int32), np.array(graph.outputs, np.int32)
    model.subgraphs = [main]
    if graph.once:
        first = _subgraph(model, graph, graph.once)
        first.inputs, first.outputs = np.zeros(0, np.int32), np.zeros(0, np.int32)
        model.subgraphs.append(first)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _subgraph(model: Any, graph: Graph, operators: Sequence[Operator]) -> Any:
    """Write operators with all values under their own numbers: those of the other subgraph are there, and unused."""
    written = schema.SubGraphT()
    written.name = b"main"
    written.tensors = [_tensor(model, graph.values[number]) for number in range(len(graph.values))]
    written.operators = [_operator(model, operator) for operator in operators]
    return written


def _tensor(model: Any, value: Value) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.name = np.array(value.shape, np.int32), value.name.encode()
    tensor.type = getattr(schema.TensorType, _TYPES[value.dtype])
    tensor.buffer = 0
    if value.scales:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array(value.scales, np.float32)
        tensor.quantization.zeroPoint = np.full(len(value.scales), value.zero_point, np.int64)
        tensor.quantization.quantizedDimension = value.channel_axis
    if value.data is not None:
        buffer = schema.BufferT()
        data = packed_nibbles(value.data) if value.dtype == "int4" else value.data
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    return tensor


def packed_nibbles(data: Array) -> Array:
    """Return int4 as TFLite stores it: two a byte, the lower one first."""
    flat = np.append(np.ravel(data), np.zeros(data.size % 2, np.int8)).astype(np.uint8)
    packed: Array = (flat[0::2] & 15) | ((flat[1::2] & 15) << 4)
    return packed.astype(np.uint8)


def _operator(model: Any, operator: Operator) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, operator.name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = int(operator.options.get("version", _VERSIONS.get(operator.name, 1)))
    model.operatorCodes.append(code)
    written = schema.OperatorT()
    written.opcodeIndex = len(model.operatorCodes) - 1
    written.inputs, written.outputs = np.array(operator.inputs, np.int32), np.array(operator.outputs, np.int32)
    options = _OPTIONS.get(operator.name)
    if options is not None:
        written.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        written.builtinOptions = getattr(schema, f"{options}T")()
        for name, value in operator.options.items():
            if name != "version":
                setattr(written.builtinOptions, name, value.encode() if isinstance(value, str) else value)
    return written
