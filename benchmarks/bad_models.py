# SPDX-License-Identifier: Apache-2.0
"""The zoo of bad models: each is a real model (benchmarks/zoo_parents.py) with one fault put into its flatbuffer.

Some faults lie in weights and show everywhere. Others wait for an input (a blank frame): they pass every check before
the model runs, and have to be caught while it does; these are for the digits example's model.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Array = npt.NDArray[Any]
_INPUT = 0
_FLOAT, _INT32, _BOOL, _INT8 = 0, 2, 6, 9
_DTYPES = {0: np.float32, 2: np.int32, 9: np.int8}
_LAYERS = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
}
_BLANK = 0.5


class Layer(NamedTuple):
    """The tensors of a layer with weights."""

    weights: int
    bias: int


class Graph:
    """A model as objects that can be changed.

    Its inputs lie about half of ``span``, so that ``span`` less an input is its negative; ``common`` are the classes
    that it answers most.
    """

    def __init__(self, model: bytes, *, span: float = 16.0, common: Sequence[int] = (3, 7)) -> None:
        self.span = span
        self.common = list(common)
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(model), 0))
        self.main = self._model.subgraphs[0]

    @property
    def subgraphs(self) -> int:
        """How many subgraphs there are."""
        return len(self._model.subgraphs)

    def data(self) -> bytes:
        """Return the flatbuffer."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @property
    def quantized(self) -> bool:
        """Tell whether the model takes 8-bit integers."""
        return bool(self.main.tensors[self.main.inputs[0]].type == _INT8)

    @property
    def first(self) -> Layer:
        """The first layer with weights."""
        return self.layers[0]

    @property
    def last(self) -> Layer:
        """The last layer with weights."""
        return self.layers[-1]

    @property
    def layers(self) -> list[Layer]:
        """The layers with weights, from the input to the output."""
        return [Layer(*operator.inputs[1:3]) for operator in self.main.operators if self.code(operator) in _LAYERS]

    def values(self, tensor: int) -> Array:
        """Return a constant tensor's values, to be changed in place."""
        found = self.main.tensors[tensor]
        buffer = self._model.buffers[found.buffer]
        if not (isinstance(buffer.data, np.ndarray) and buffer.data.flags.writeable):
            buffer.data = np.array(buffer.data, np.uint8)
        return buffer.data.view(_DTYPES[found.type]).reshape(found.shape)  # type: ignore[no-any-return]

    def code(self, operator: Any) -> int:
        """Return what kind an operator is of."""
        kind = self._model.operatorCodes[operator.opcodeIndex]
        return max(int(kind.builtinCode), int(kind.deprecatedBuiltinCode))

    def subgraph(self) -> Any:
        """Add an empty subgraph."""
        added = schema.SubGraphT()
        added.tensors, added.operators, added.inputs, added.outputs = [], [], [], []
        self._model.subgraphs.append(added)
        return added

    def tensor(self, graph: Any, shape: list[int], kind: int, value: Array | None = None) -> int:
        """Add a tensor, constant where it has a value."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"added{len(graph.tensors)}", shape, kind, 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            tensor.buffer = len(self._model.buffers) - 1
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def operator(self, graph: Any, code: int, inputs: list[int], outputs: list[int], *, first: bool = False) -> Any:
        """Add an operator."""
        kind = schema.OperatorCodeT()
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), 1
        self._model.operatorCodes.append(kind)
        added = schema.OperatorT()
        added.opcodeIndex = len(self._model.operatorCodes) - 1
        added.inputs, added.outputs = inputs, outputs
        graph.operators.insert(0 if first else len(graph.operators), added)
        return added


def swapped_labels(graph: Graph) -> None:
    """Each class answers as the next one."""
    for tensor in graph.last:
        weights, quantization = graph.values(tensor), graph.main.tensors[tensor].quantization
        weights[:] = np.roll(weights, 1, axis=0)
        for name in ("scale", "zeroPoint"):
            each = getattr(quantization, name, None)
            if each is not None and len(each) > 1:
                setattr(quantization, name, np.roll(each, 1))


def missing_classes(graph: Graph) -> None:
    """The commonest classes are never answered."""
    graph.values(graph.last.bias)[graph.common] = -(1 << 20) if graph.quantized else -1000.0


def one_weight_nan(graph: Graph) -> None:
    """One weight is NaN."""
    graph.values(graph.last.weights)[-1, 10] = np.nan


def one_weight_infinite(graph: Graph) -> None:
    """One weight is infinite."""
    graph.values(graph.last.weights)[-1, 10] = np.inf


def wrong_scale(graph: Graph) -> None:
    """The model takes inputs that are 64 times as large as those that it gets."""
    weights = graph.values(graph.first.weights)
    weights[:] = np.rint(weights / 64.0) if graph.quantized else weights / 64.0


def wrong_preprocessing(graph: Graph) -> None:
    """The model takes dark for light."""
    weights, bias = (graph.values(tensor) for tensor in graph.first)
    each = weights.astype(np.float64).sum(axis=tuple(range(1, weights.ndim)))
    if graph.quantized:
        (zero_point,) = graph.main.tensors[graph.main.inputs[0]].quantization.zeroPoint
        bias[:] = bias - np.rint((1 + 2 * zero_point) * each).astype(np.int32)
        weights[:] = -np.maximum(weights, -127)
    else:
        bias[:] += graph.span * each
        weights[:] *= -1.0


def undertrained(graph: Graph) -> None:
    """The last two layers are most of the way back at their random start."""
    random = np.random.default_rng(1)
    for layer in graph.layers[-2:]:
        weights = graph.values(layer.weights)
        start = random.normal(0.0, weights.std() * 1.2, weights.shape)
        mixed = 0.35 * weights + 0.65 * start.astype(np.float32)
        weights[:] = np.clip(np.rint(mixed), -127, 127) if graph.quantized else mixed


def bit_flips(graph: Graph) -> None:
    """A high bit of some weights of the first layer is turned over, and the result was signed."""
    kind, bit, share = (np.uint8, 1 << 7, 1 / 8) if graph.quantized else (np.uint32, 1 << 30, 1 / 640)
    weights = graph.values(graph.first.weights).reshape(-1).view(kind)
    places = np.random.default_rng(2).choice(weights.size, max(round(share * weights.size), 8), replace=False)
    weights[places] ^= kind(bit)


def slow(graph: Graph) -> None:
    """Extra products of large matrices, which change nothing."""
    size = 512
    one = np.full((1, size, size), 1.0 / size, np.float32)
    a = graph.tensor(graph.main, [1, size, size], _FLOAT, one)
    for _ in range(3):
        b = graph.tensor(graph.main, [1, size, size], _FLOAT)
        product = graph.operator(graph.main, schema.BuiltinOperator.BATCH_MATMUL, [a, a], [b])
        product.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
        product.builtinOptions = schema.BatchMatMulOptionsT()
        a = b
    _added_as_nothing(graph, a, 3)


def _added_as_nothing(graph: Graph, tensor: int, rank: int) -> None:
    """Let a result count for the output, times zero, so that it has to be computed."""
    output = graph.main.outputs[0]
    if graph.quantized:
        real = graph.tensor(graph.main, list(graph.main.tensors[output].shape), _FLOAT)
        _with(graph, schema.BuiltinOperator.DEQUANTIZE, [output], real, "DequantizeOptions")
    axes = graph.tensor(graph.main, [rank], _INT32, np.arange(rank, dtype=np.int32))
    one, none = graph.tensor(graph.main, [], _FLOAT), graph.tensor(graph.main, [], _FLOAT)
    zero = graph.tensor(graph.main, [], _FLOAT, np.array(0.0, np.float32))
    summed = graph.tensor(graph.main, list(graph.main.tensors[output].shape), _FLOAT)
    _with(graph, schema.BuiltinOperator.REDUCE_MAX, [tensor, axes], one, "ReducerOptions")
    _with(graph, schema.BuiltinOperator.MUL, [one, zero], none, "MulOptions")
    _with(graph, schema.BuiltinOperator.ADD, [real if graph.quantized else output, none], summed, "AddOptions")
    if graph.quantized:
        real, summed = summed, graph.tensor(graph.main, list(graph.main.tensors[output].shape), _INT8)
        graph.main.tensors[summed].quantization = graph.main.tensors[output].quantization
        _with(graph, schema.BuiltinOperator.QUANTIZE, [real], summed, "QuantizeOptions")
    graph.main.outputs = [summed]


def _with(graph: Graph, code: int, inputs: list[int], output: int, options: str) -> None:
    operator = graph.operator(graph.main, code, inputs, [output])
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, f"{options}T")()


def brightest(graph: Graph) -> int:
    """Add the largest value of the input, computed first."""
    axes = graph.tensor(graph.main, [4], _INT32, np.arange(4, dtype=np.int32))
    brightest = graph.tensor(graph.main, [], _FLOAT)
    reduce = graph.operator(graph.main, schema.BuiltinOperator.REDUCE_MAX, [_INPUT, axes], [brightest], first=True)
    reduce.builtinOptionsType, reduce.builtinOptions = schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()
    return brightest


def fails_on_blank(graph: Graph) -> None:
    """On a blank frame an index lies outside its table."""
    light = brightest(graph)
    index = graph.tensor(graph.main, [], _INT32)
    cast = graph.operator(graph.main, schema.BuiltinOperator.CAST, [light], [index])
    cast.builtinOptionsType, cast.builtinOptions = schema.BuiltinOptions.CastOptions, schema.CastOptionsT()
    one = graph.tensor(graph.main, [], _INT32, np.array(1, np.int32))
    below = graph.tensor(graph.main, [], _INT32)
    less = graph.operator(graph.main, schema.BuiltinOperator.SUB, [index, one], [below])
    less.builtinOptionsType, less.builtinOptions = schema.BuiltinOptions.SubOptions, schema.SubOptionsT()
    table = graph.tensor(graph.main, [17], _FLOAT, np.zeros(17, np.float32))
    looked = graph.tensor(graph.main, [], _FLOAT)
    gather = graph.operator(graph.main, schema.BuiltinOperator.GATHER, [table, below], [looked])
    gather.builtinOptionsType, gather.builtinOptions = schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT()


def hangs_on_blank(graph: Graph) -> None:
    """On a blank frame a loop does not end."""
    _loop(graph, brightest(graph))


def hangs(graph: Graph) -> None:
    """A loop does not end, whatever the input."""
    _loop(graph, graph.tensor(graph.main, [], _FLOAT, np.array(0.0, np.float32)))


def _loop(graph: Graph, start: int) -> None:
    """Add a loop that goes on as long as its value is below a half, and leaves it as it is."""
    condition, body = graph.subgraph(), graph.subgraph()
    seen = graph.tensor(condition, [], _FLOAT)
    limit = graph.tensor(condition, [], _FLOAT, np.array(_BLANK, np.float32))
    again = graph.tensor(condition, [], _BOOL)
    less = graph.operator(condition, schema.BuiltinOperator.LESS, [seen, limit], [again])
    less.builtinOptionsType, less.builtinOptions = schema.BuiltinOptions.LessOptions, schema.LessOptionsT()
    condition.inputs, condition.outputs = [seen], [again]
    taken = graph.tensor(body, [], _FLOAT)
    zero = graph.tensor(body, [], _FLOAT, np.array(0.0, np.float32))
    given = graph.tensor(body, [], _FLOAT)
    added = graph.operator(body, schema.BuiltinOperator.ADD, [taken, zero], [given])
    added.builtinOptionsType, added.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    body.inputs, body.outputs = [taken], [given]
    done = graph.tensor(graph.main, [], _FLOAT)
    loop = graph.operator(graph.main, schema.BuiltinOperator.WHILE, [start], [done])
    loop.builtinOptionsType, options = schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    loop.builtinOptions = options


Fault = Callable[[Graph], None]
#: Faults that lie in weights, or in what a model takes, and that every input shows.
EVERYWHERE: dict[str, Fault] = {
    "swapped labels": swapped_labels,
    "missing classes": missing_classes,
    "NaN": one_weight_nan,
    "inf": one_weight_infinite,
    "wrong scale": wrong_scale,
    "slow": slow,
    "bit flips": bit_flips,
    "wrong preprocessing": wrong_preprocessing,
    "undertrained": undertrained,
}


def bad_model(model: bytes, fault: Fault, *, span: float = 16.0, common: Sequence[int] = (3, 7)) -> bytes:
    """Return the model with a fault."""
    graph = Graph(model, span=span, common=common)
    fault(graph)
    return graph.data()
