# SPDX-License-Identifier: Apache-2.0
"""Take channels out of a float TFLite model that :mod:`~converter.core.numerics.pruning` proves constant or unread."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import Model, graph_facts, read_model
from converter.core.graph import GraphFacts, OperatorFacts
from converter.core.numerics.pruning import UNCLIPPED, Clip, Network, Step, Window, shrink, window_ranges

Array = npt.NDArray[Any]
_CLIPS: dict[int, Clip] = {
    schema.ActivationFunctionType.NONE: UNCLIPPED,
    schema.ActivationFunctionType.RELU: (0.0, np.inf),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
}
_CLIP_OPERATORS: dict[str, Clip] = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
_RESHAPES = ("RESHAPE", "SQUEEZE")
_NO_TENSOR = -1


@dataclass(frozen=True)
class _Place:
    """One operator of a model."""

    tree: Model
    facts: GraphFacts
    number: int

    @property
    def operator(self) -> OperatorFacts:
        return self.facts.operators[self.number]

    @property
    def options(self) -> Any:
        return self.tree.subgraphs[0].operators[self.number].builtinOptions


def prune(model: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return a float model without its dead channels, and what went, in words; without any, the very same bytes.

    The outputs differ by what float32 makes of another order of the same sums. Inputs, outputs and tensor names stay.

    Raises:
        UnsupportedModelError: the buffer is damaged, or has no graph.
    """
    tree = read_model(model)
    if len(tree.subgraphs) != 1:
        return model, ()
    facts = graph_facts(tree, len(model))
    network = _network(tree, facts)
    smaller = shrink(network)
    if smaller is network:
        return model, ()
    for number, (before, after) in enumerate(zip(network.steps, smaller.steps, strict=True)):
        _put_step(tree, facts, number, before, after)
    _put_widths(tree, facts, network, smaller)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree)), _words(facts, network, smaller)


def _network(tree: Model, facts: GraphFacts) -> Network:
    graph = tree.subgraphs[0]
    makers = Counter(number for operator in facts.operators for number in operator.outputs)
    fixed = {*facts.inputs, *facts.outputs}
    fixed |= {n for n, t in enumerate(graph.tensors) if t.isVariable or t.sparsity is not None or makers[n] > 1}
    return Network(
        steps=tuple(_step(tree, facts, number) for number in range(len(facts.operators))),
        widths={number: tensor.shape[-1] if tensor.shape else 1 for number, tensor in enumerate(facts.tensors)},
        fixed=frozenset(fixed),
    )


def _step(tree: Model, facts: GraphFacts, number: int) -> Step:
    operator = facts.operators[number]
    data = [n for n in operator.inputs if n != _NO_TENSOR and not facts.tensors[n].constant_bytes]
    barrier = Step("barrier", tuple(data), operator.outputs)
    used = [facts.tensors[n] for n in (*data, *operator.outputs)]
    if not data or len(operator.outputs) != 1 or any(t.dtype != "float32" or not t.shape for t in used):
        return barrier
    reader = _READERS.get(operator.name)
    step = None if reader is None else reader(_Place(tree, facts, number))
    return barrier if step is None or step.sources != tuple(data) else step


def _convolution(at: _Place) -> Step | None:
    return _windowed(at, "linear")  # with other channels it is a grouped convolution


def _depthwise(at: _Place) -> Step | None:
    return _windowed(at, "depthwise")  # with other channels it makes several outputs of one


def _windowed(at: _Place, kind: Literal["linear", "depthwise"]) -> Step | None:
    """Return the step of weights that slide over a picture; None where their channels are not those of the source."""
    weights, bias, source = _parameters(at)
    shape = at.facts.tensors[source].shape
    if weights is None or weights.ndim != 4 or weights.shape[3] != shape[-1]:
        return None
    return Step(
        kind,
        (source,),
        at.operator.outputs,
        weights=weights[0] if kind == "depthwise" else weights,
        bias=bias,
        clip=_clip(at),
        windows=_windows(at, shape, weights.shape[1:3]),
    )


def _dense(at: _Place) -> Step | None:
    weights, bias, source = _parameters(at)
    if weights is None or weights.ndim != 2 or weights.shape[1] != at.facts.tensors[source].shape[-1]:
        return None  # it flattens on its own
    if _option(at, "weightsFormat") != schema.FullyConnectedOptionsWeightsFormat.DEFAULT:
        return None
    return Step(
        "linear",
        (source,),
        at.operator.outputs,
        weights=weights[:, np.newaxis, np.newaxis, :],
        bias=bias,
        clip=_clip(at),
        windows=(Window(0, 1, 0, 1),),
    )


def _sum(at: _Place) -> Step | None:
    operator = at.operator
    if len({at.facts.tensors[n].shape for n in (*operator.inputs, *operator.outputs)}) != 1:
        return None  # one is stretched
    return Step("sum", operator.inputs, operator.outputs, clip=_clip(at))


def _pass(at: _Place) -> Step | None:
    operator = at.operator
    clip = _CLIP_OPERATORS.get(operator.name, _clip(at) if operator.name in _POOLS else UNCLIPPED)
    return Step("pass", operator.inputs[:1], operator.outputs, clip=clip)


def _reshape(at: _Place) -> Step | None:
    """Read a reshape that only puts whole pixels in another order: channels stay innermost."""
    operator = at.operator
    before, after = (at.facts.tensors[n].shape[-1] for n in (operator.inputs[0], operator.outputs[0]))
    shapes = operator.inputs[1:]
    if not before or after % before or any(_constant(at.tree, n, "<i4") is None for n in shapes):
        return None
    return Step("pass", operator.inputs[:1], operator.outputs)


def _mean(at: _Place) -> Step | None:
    operator = at.operator
    axes, rank = _constant(at.tree, operator.inputs[1], "<i4"), len(at.facts.tensors[operator.inputs[0]].shape)
    if axes is None or any(int(axis) % rank == rank - 1 for axis in axes.reshape(-1)):
        return None
    return Step("pass", operator.inputs[:1], operator.outputs)


def _pad(at: _Place) -> Step | None:
    operator = at.operator
    paddings = _constant(at.tree, operator.inputs[1], "<i4")
    if paddings is None or paddings.reshape(-1, 2)[-1].any():
        return None
    return Step("pass", operator.inputs[:1], operator.outputs, pads=True)


_READERS = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "ADD": _sum,
    "MEAN": _mean,
    "PAD": _pad,
    **dict.fromkeys((*_POOLS, *_CLIP_OPERATORS), _pass),
    **dict.fromkeys(_RESHAPES, _reshape),
}


def _parameters(at: _Place) -> tuple[Array | None, Array | None, int]:
    """Return weights and bias as float64, and the number of the data's tensor; no weights where they are not ours."""
    inputs = at.operator.inputs
    has_bias = len(inputs) > 2 and inputs[2] != _NO_TENSOR
    weights = _floats(at, inputs[1])
    bias = _floats(at, inputs[2]) if has_bias else None
    return (None if has_bias and bias is None else weights), bias, inputs[0]


def _floats(at: _Place, number: int) -> Array | None:
    if at.facts.tensors[number].dtype != "float32" or at.tree.subgraphs[0].tensors[number].sparsity is not None:
        return None
    values = _constant(at.tree, number, "<f4")
    return None if values is None else values.astype(np.float64)


def _constant(tree: Model, number: int, dtype: str) -> Array | None:
    tensor = tree.subgraphs[0].tensors[number]
    data = tree.buffers[tensor.buffer].data
    shape = [int(size) for size in tensor.shape] if tensor.shape is not None else []
    if data is None or len(data) != np.dtype(dtype).itemsize * int(np.prod(shape)):
        return None
    return np.frombuffer(bytes(data), dtype=dtype).reshape(shape)


def _option(at: _Place, name: str) -> int:
    """Return an option of an operator; one that its file does not have has the schema's default, 0 or the first."""
    return int(getattr(at.options, name, 0))


def _clip(at: _Place) -> Clip:
    return _CLIPS.get(_option(at, "fusedActivationFunction"))


def _windows(at: _Place, shape: tuple[int, ...], taps: tuple[int, ...]) -> tuple[Window, ...]:
    same = _option(at, "padding") == schema.Padding.SAME
    high, wide, apart_high, apart_wide = (
        max(_option(at, name), 1) for name in ("strideH", "strideW", "dilationHFactor", "dilationWFactor")
    )
    rows = window_ranges(shape[1], taps[0], stride=high, dilation=apart_high, same=same)
    columns = window_ranges(shape[2], taps[1], stride=wide, dilation=apart_wide, same=same)
    return tuple(Window(*row, *column) for row in rows for column in columns)


def _put_step(tree: Model, facts: GraphFacts, number: int, before: Step, after: Step) -> None:
    if before is after or after.weights is None:
        return
    weights = {"linear": after.weights, "depthwise": after.weights[np.newaxis]}[after.kind]
    if facts.operators[number].name == "FULLY_CONNECTED":
        weights = after.weights[:, 0, 0, :]
    _put_constant(tree, number, 1, weights.astype("<f4"))
    if after.bias is not None:
        _put_constant(tree, number, 2, after.bias.astype("<f4"))


def _put_constant(tree: Model, operator: int, position: int, values: Array) -> None:
    """Give an operator a constant of its own: another operator or tensor may hold the old one as well."""
    graph = tree.subgraphs[0]
    inputs = graph.operators[operator].inputs
    old = int(inputs[position])
    tensor = graph.tensors[old]
    if sum(int(n) == old for op in graph.operators for n in op.inputs) > 1:
        tensor = schema.TensorT()
        vars(tensor).update(vars(graph.tensors[old]))
        tensor.name = bytes(tensor.name or b"") + b"/%d" % operator
        graph.tensors.append(tensor)
        inputs[position] = len(graph.tensors) - 1
    if sum(int(t.buffer) == int(tensor.buffer) for t in graph.tensors) > 1:
        tree.buffers.append(schema.BufferT())
        tensor.buffer = len(tree.buffers) - 1
    tree.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    tensor.shape = [int(size) for size in values.shape]
    tensor.shapeSignature = None


def _put_widths(tree: Model, facts: GraphFacts, before: Network, after: Network) -> None:
    graph = tree.subgraphs[0]
    for number, width in after.widths.items():
        if width == before.widths[number]:
            continue
        for shape in (graph.tensors[number].shape, graph.tensors[number].shapeSignature):
            if shape is not None and len(shape):
                shape[-1] = width
    for number, operator in enumerate(facts.operators):
        width = after.widths[operator.outputs[0]]
        if operator.name == "RESHAPE" and width != before.widths[operator.outputs[0]]:
            _put_new_shape(tree, number, width)


def _put_new_shape(tree: Model, number: int, width: int) -> None:
    """Write the last axis of a reshape's result into its constant and its options; -1 finds out by itself."""
    operator = tree.subgraphs[0].operators[number]
    if len(operator.inputs) > 1:
        stored = _constant(tree, int(operator.inputs[1]), "<i4")
        if stored is not None and stored[-1] != _NO_TENSOR:
            _put_constant(tree, number, 1, np.asarray([*stored[:-1], width], dtype="<i4"))
    if getattr(operator.builtinOptions, "newShape", None) is not None:
        shape = [int(size) for size in operator.builtinOptions.newShape]
        operator.builtinOptions.newShape = [*shape[:-1], width if shape[-1] != _NO_TENSOR else shape[-1]]


def _words(facts: GraphFacts, before: Network, after: Network) -> tuple[str, ...]:
    return tuple(
        f"{facts.operators[number].name} '{facts.tensors[old.outputs[0]].name}' lost "
        f"{before.widths[old.outputs[0]] - after.widths[old.outputs[0]]} of {before.widths[old.outputs[0]]} "
        "output channels, which are constant or read by nobody"
        for number, old in enumerate(before.steps)
        if old.kind == "linear" and after.widths[old.outputs[0]] != before.widths[old.outputs[0]]
    )
