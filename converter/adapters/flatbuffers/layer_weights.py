# SPDX-License-Identifier: Apache-2.0
"""Take a model's linear layers out of its flatbuffer, and put changed weights back."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import Model, graph_facts, read_model
from converter.core.graph import GraphFacts
from converter.core.numerics.conditioning import Layer, LayerKind

Array = npt.NDArray[Any]
_FLOAT_BYTES = 4
_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
#: Multiplying a channel by a positive factor passes through these unchanged.
_HOMOGENEOUS = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)


def read_layers(data: bytes) -> list[Layer]:
    """Return the layers whose float weights belong to them alone, in the order of execution.

    A model with several subgraphs has none, as its tensors may be read from elsewhere, nor one whose tensors share
    names, as statistics go by name.
    """
    model = read_model(data)
    if len(model.subgraphs) != 1:
        return []
    facts = graph_facts(model, len(data))
    if len({tensor.name for tensor in facts.tensors}) != len(facts.tensors):
        return []
    shared = _shared_tensors(model)
    layers = [
        _layer(model, facts, number)
        for number, operator in enumerate(facts.operators)
        if operator.name in _KINDS
        and not shared.intersection(operator.inputs[1:])
        and _is_float(facts, number)
        and _is_whole(model, facts, number)
    ]
    return [_with_follower(layer, layers, model, facts) for layer in layers]


def with_layers(data: bytes, layers: Sequence[Layer]) -> bytes:
    """Return the model with these layers' weights and biases in it."""
    model = read_model(data)
    graph = model.subgraphs[0]
    for layer in layers:
        tensors = [graph.tensors[number] for number in graph.operators[layer.operator].inputs if number >= 0]
        _put(model, tensors[1], layer.weights)
        if layer.bias is not None:
            _put(model, tensors[2], layer.bias)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _layer(model: Model, facts: GraphFacts, number: int) -> Layer:
    operator = facts.operators[number]
    tensors = model.subgraphs[0].tensors
    has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
    return Layer(
        operator=number,
        kind=cast("LayerKind", operator.name),
        input=facts.tensors[operator.inputs[0]].name,
        output=facts.tensors[operator.outputs[0]].name,
        weights=_take(model, tensors[operator.inputs[1]]),
        bias=_take(model, tensors[operator.inputs[2]]) if has_bias else None,
        follower=None,
    )


def _with_follower(layer: Layer, layers: Sequence[Layer], model: Model, facts: GraphFacts) -> Layer:
    """Find the layer that alone reads this one's output as its data, where a channel may be rescaled in between."""
    output = facts.operators[layer.operator].outputs[0]
    readers = [number for number, operator in enumerate(facts.operators) if output in operator.inputs]
    options = model.subgraphs[0].operators[layer.operator].builtinOptions
    activation = getattr(options, "fusedActivationFunction", None)
    if len(readers) != 1 or output in facts.outputs or activation not in _HOMOGENEOUS:
        return layer
    for position, candidate in enumerate(layers):
        if candidate.operator == readers[0] and facts.operators[readers[0]].inputs[0] == output:
            return Layer(**{**layer.__dict__, "follower": position})
    return layer


def _is_float(facts: GraphFacts, number: int) -> bool:
    operator = facts.operators[number]
    used = [facts.tensors[n] for n in operator.inputs if n >= 0]
    return all(tensor.dtype == "float32" for tensor in used) and all(tensor.constant_bytes for tensor in used[1:])


def _is_whole(model: Model, facts: GraphFacts, number: int) -> bool:
    """Tell whether weights and bias are stored as their shapes say: neither sparsely, nor with bytes to spare."""
    used = [n for n in facts.operators[number].inputs[1:] if n >= 0]
    return len(used) in (1, 2) and all(
        model.subgraphs[0].tensors[n].sparsity is None
        and facts.tensors[n].constant_bytes == _FLOAT_BYTES * math.prod(facts.tensors[n].shape)
        for n in used
    )


def _shared_tensors(model: Model) -> set[int]:
    """Return the numbers of tensors that several operators read, or whose bytes another tensor holds as well."""
    graph = model.subgraphs[0]
    reads = Counter(int(number) for operator in graph.operators for number in operator.inputs)
    holders = Counter(int(tensor.buffer) for tensor in graph.tensors)
    return {n for n, tensor in enumerate(graph.tensors) if reads[n] > 1 or holders[int(tensor.buffer)] > 1}


def _take(model: Model, tensor: Any) -> Array:
    data = bytes(model.buffers[tensor.buffer].data)
    return np.frombuffer(data, dtype="<f4").reshape([int(size) for size in tensor.shape]).astype(np.float64)


def _put(model: Model, tensor: Any, values: Array) -> None:
    model.buffers[tensor.buffer].data = np.frombuffer(values.astype("<f4").tobytes(), dtype=np.uint8)
