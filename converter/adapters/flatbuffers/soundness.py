# SPDX-License-Identifier: Apache-2.0
"""Whether a model that LiteRT runs is what it says: everything here that reads it relies on that.

LiteRT computes the shape of every tensor anew, and never looks at the one that is written for what an operator makes: a
damaged file that runs can declare a tensor of a billion rows. It runs operators in the order of the file, whatever they
read, and computes with NaN and with scales of zero. What such a model answers is chance, and it says nothing.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from converter.adapters.flatbuffers.reading import Model, graph_facts, read_model
from converter.core.graph import GraphFacts
from edgefleet.contracts.errors import UnsupportedModelError

_HINT = "the file is damaged, or was exported with shapes that are not fixed: export it again with a batch of one"
_DAMAGED_HINT = "the file is damaged, or its training or export went wrong: export it again"
_FLOATS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
#: Operators whose constants beyond the first input are weights and biases; in others infinity may be a mask.
_LAYERS = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
#: No converter writes a hundred of them; reading and writing them takes the longer, the more there are.
_MOST_METADATA = 256
_LONGEST_NAME_BYTES = 1 << 16
_LIMITS = {
    "int2": (-2, 1),
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(1 << 15), (1 << 15) - 1),
}


def check_sound(model: bytes) -> None:
    """Refuse a model that contradicts itself: shapes, order, constants, scales. Only for one that passed the probe.

    Raises:
        UnsupportedModelError: the first thing that is wrong.
    """
    tree = read_model(model)
    facts = graph_facts(tree, len(model))
    for wrong in (*_entries(tree), *_order(tree, facts), *_constants(tree, facts), *_scales(tree, facts)):
        raise UnsupportedModelError(wrong, hint=_DAMAGED_HINT)
    _check_computed(model)


def _check_computed(model: bytes) -> None:
    """Refuse shapes that are not what the interpreter makes of them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    try:
        declared = _shapes(interpreter)
        interpreter.allocate_tensors()
        computed = _shapes(interpreter)
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(f"the model's tensors cannot be read: {_first_line(error)}", hint=_HINT) from error
    unreadable = sorted(set(range(max(declared, default=-1))) - set(declared))
    if unreadable:
        raise UnsupportedModelError(f"the model's tensor {unreadable[0]} cannot be read", hint=_HINT)
    for number, shape in declared.items():
        found = computed.get(number, shape)
        if found != shape:
            raise UnsupportedModelError(
                f"the model declares shape {list(shape)} for tensor {number}, and computes {list(found)}", hint=_HINT
            )


def _entries(tree: Model) -> Iterator[str]:
    """Tell of notes in the file that are so many or so long that reading them takes for ever."""
    entries = tree.metadata or ()
    if len(entries) > _MOST_METADATA:
        yield f"the model has {len(entries)} metadata entries, over the limit of {_MOST_METADATA}"
    for entry in entries:
        if len(entry.name or b"") > _LONGEST_NAME_BYTES:
            yield f"the model has a metadata entry whose name has {len(entry.name)} bytes"


def _order(tree: Model, facts: GraphFacts) -> Iterator[str]:
    """Tell of what is read before it is made, or made twice."""
    variables = {number for number, tensor in enumerate(tree.subgraphs[0].tensors) if tensor.isVariable}
    constants = {number for number, tensor in enumerate(facts.tensors) if tensor.constant_bytes}
    known = {*facts.inputs, *variables, *constants}
    for place, operator in enumerate(facts.operators):
        for number in operator.inputs:
            if number >= 0 and number not in known and 0 not in facts.tensors[number].shape:
                yield f"the model's operator {place} ({operator.name}) reads tensor {number} before it is computed"
        for number in operator.outputs:
            if number in known - variables:
                yield f"the model's operator {place} ({operator.name}) writes tensor {number}, which is there already"
        known.update(operator.outputs)
    for number in facts.outputs:
        if number not in known:
            yield f"the model's output tensor {number} is computed by no operator"


def _constants(tree: Model, facts: GraphFacts) -> Iterator[str]:
    """Tell of weights that are no numbers."""
    weights = {
        number
        for operator in facts.operators
        if operator.name in _LAYERS
        for number in operator.inputs[1:]
        if number >= 0
    }
    for number, (tensor, fact) in enumerate(zip(tree.subgraphs[0].tensors, facts.tensors, strict=True)):
        if not fact.constant_bytes or fact.dtype not in _FLOATS:
            continue
        dtype = np.dtype(_FLOATS[fact.dtype])
        data = bytes(tree.buffers[tensor.buffer].data)
        values = np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
        if np.isnan(values).any():
            yield f"the model's constant '{fact.name}' (tensor {number}) has NaN in it"
        if number in weights and np.isinf(values).any():
            yield f"the model's weights '{fact.name}' (tensor {number}) have infinity in them"


def _scales(tree: Model, facts: GraphFacts) -> Iterator[str]:
    """Tell of quantization that stands for no real values."""
    for number, (tensor, fact) in enumerate(zip(tree.subgraphs[0].tensors, facts.tensors, strict=True)):
        if not fact.quantized:
            if fact.scales and fact.dtype in _FLOATS and number in (*facts.inputs, *facts.outputs):
                yield f"the model's tensor {number} ('{fact.name}') is {fact.dtype}, and has a scale like an integer"
            continue
        wrong = [scale for scale in fact.scales if not math.isfinite(scale) or scale <= 0.0]
        if wrong:
            yield f"the model's tensor {number} ('{fact.name}') has the scale {wrong[0]:g}, expected a positive number"
        axis = int(tensor.quantization.quantizedDimension)
        channels = fact.shape[axis] if 0 <= axis < len(fact.shape) else None
        if len(fact.scales) not in (1, channels):
            yield f"the model's tensor {number} ('{fact.name}') has {len(fact.scales)} scales, expected 1 or {channels}"
        if fact.zero_points and len(fact.zero_points) not in (1, len(fact.scales)):
            yield (
                f"the model's tensor {number} ('{fact.name}') has {len(fact.zero_points)} zero points "
                f"for {len(fact.scales)} scales"
            )
        low, high = _LIMITS[fact.dtype]
        if any(not low <= point <= high for point in fact.zero_points):
            yield f"the model's tensor {number} ('{fact.name}') has a zero point outside {fact.dtype}"


def _shapes(interpreter: Any) -> dict[int, tuple[int, ...]]:
    return {int(each["index"]): tuple(map(int, each["shape"])) for each in interpreter.get_tensor_details()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
