# SPDX-License-Identifier: Apache-2.0
"""The zoo of bad models: each is the digits example's real model with one fault put into its flatbuffer.

Some faults lie in weights and show everywhere. Others wait for an input (a blank frame): they pass every check before
the model runs, and have to be caught while it does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Array = npt.NDArray[Any]
#: Tensors of the digits example's graph.
_CONV, _CONV_BIAS, _DENSE, _DENSE_BIAS = 6, 7, 4, 2
_INPUT = 0
_FLOAT, _INT32, _BOOL = 0, 2, 6
_DTYPES = {0: np.float32, 2: np.int32, 9: np.int8}
_SATURATE = 2  # the fused activation RELU_N1_TO_1
_BLANK = 0.5


class Graph:
    """A model as objects that can be changed."""

    def __init__(self, model: bytes) -> None:
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


def wrong_calibration(graph: Graph) -> None:
    """Activations saturate at 1, as after a calibration on inputs a fraction as bright."""
    for operator in graph.main.operators[:2]:
        operator.builtinOptions.fusedActivationFunction = _SATURATE


def swapped_labels(graph: Graph) -> None:
    """Each class answers as the next one."""
    for tensor in (_DENSE, _DENSE_BIAS):
        weights = graph.values(tensor)
        weights[:] = np.roll(weights, 1, axis=0)


def missing_classes(graph: Graph) -> None:
    """Two classes are never answered."""
    graph.values(_DENSE_BIAS)[[3, 7]] = -1000.0


def one_weight_nan(graph: Graph) -> None:
    """One weight is NaN."""
    graph.values(_DENSE)[4, 100] = np.nan


def one_weight_infinite(graph: Graph) -> None:
    """One weight is infinite."""
    graph.values(_DENSE)[4, 100] = np.inf


def wrong_scale(graph: Graph) -> None:
    """The model takes pixels from 0 to 1, and gets them from 0 to 16."""
    graph.values(_CONV)[:] /= 64.0


def wrong_preprocessing(graph: Graph) -> None:
    """The model takes dark for light."""
    weights, bias = graph.values(_CONV), graph.values(_CONV_BIAS)
    bias[:] += 16.0 * weights.sum(axis=(1, 2, 3))
    weights[:] *= -1.0


def undertrained(graph: Graph) -> None:
    """The last layer is most of the way back at its random start."""
    weights = graph.values(_DENSE)
    start = np.random.default_rng(1).normal(0.0, weights.std() * 1.2, weights.shape)
    weights[:] = 0.35 * weights + 0.65 * start.astype(np.float32)


def bit_flips(graph: Graph) -> None:
    """A high bit of some weights is turned over, and the result was signed."""
    weights = graph.values(_DENSE).reshape(-1).view(np.uint32)
    places = np.random.default_rng(2).choice(weights.size, 8, replace=False)
    weights[places] ^= np.uint32(1 << 30)


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
    axes = graph.tensor(graph.main, [rank], _INT32, np.arange(rank, dtype=np.int32))
    one, none, output = (
        graph.tensor(graph.main, [], _FLOAT),
        graph.tensor(graph.main, [], _FLOAT),
        graph.main.outputs[0],
    )
    zero = graph.tensor(graph.main, [], _FLOAT, np.array(0.0, np.float32))
    summed = graph.tensor(graph.main, list(graph.main.tensors[output].shape), _FLOAT)
    reduce = graph.operator(graph.main, schema.BuiltinOperator.REDUCE_MAX, [tensor, axes], [one])
    reduce.builtinOptionsType, reduce.builtinOptions = schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()
    less = graph.operator(graph.main, schema.BuiltinOperator.MUL, [one, zero], [none])
    less.builtinOptionsType, less.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    add = graph.operator(graph.main, schema.BuiltinOperator.ADD, [output, none], [summed])
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.main.outputs = [summed]


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
    light = brightest(graph)
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
    loop = graph.operator(graph.main, schema.BuiltinOperator.WHILE, [light], [done])
    loop.builtinOptionsType, options = schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    loop.builtinOptions = options


Fault = Callable[[Graph], None]
#: Faults that every input shows.
EVERYWHERE: dict[str, Fault] = {
    "wrong calibration": wrong_calibration,
    "swapped labels": swapped_labels,
    "missing classes": missing_classes,
    "NaN": one_weight_nan,
    "infinity": one_weight_infinite,
    "wrong scale": wrong_scale,
    "wrong preprocessing": wrong_preprocessing,
    "undertrained": undertrained,
    "bit flips": bit_flips,
    "slow": slow,
}
#: Faults that a blank frame shows.
WAITING: dict[str, Fault] = {"fails on blank": fails_on_blank, "hangs on blank": hangs_on_blank}


def bad_model(model: bytes, fault: Fault) -> bytes:
    """Return the model with a fault."""
    graph = Graph(model)
    fault(graph)
    return graph.data()
