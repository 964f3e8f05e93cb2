# SPDX-License-Identifier: Apache-2.0
"""Which version of an operator its types ask for, and which release of the runtime a model then needs.

An interpreter that meets a version it does not know refuses the model; one that is told too low a version computes
with the wrong kernel and says nothing. The facts are those of TensorFlow's ``op_version.cc``
(tensorflow/compiler/mlir/lite/tools/versioning). What follows from an operator's options (broadcasting, dilation,
half-pixel centres) the float converter has written already; a version is only ever raised.
"""

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import NamedTuple

from converter.core.board.operator_releases import release_of
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts

#: Version asked for by an 8-bit first input.
_INT8: Mapping[str, int] = {
    "ABS": 2, "ADD": 2, "ARG_MAX": 2, "ARG_MIN": 2, "AVERAGE_POOL_2D": 2, "BATCH_MATMUL": 2, "BATCH_TO_SPACE_ND": 2,
    "BROADCAST_TO": 3, "CONCATENATION": 2, "DEPTH_TO_SPACE": 2, "EQUAL": 2, "EXP": 2, "GATHER": 2, "GELU": 2,
    "GREATER": 2, "GREATER_EQUAL": 2, "LESS": 2, "LESS_EQUAL": 2, "LOG": 2, "LOGISTIC": 2, "LOG_SOFTMAX": 2,
    "MAXIMUM": 2, "MAX_POOL_2D": 2, "MEAN": 2, "MINIMUM": 2, "MIRROR_PAD": 2, "MUL": 2, "NOT_EQUAL": 2, "PACK": 2,
    "PAD": 2, "PADV2": 2, "REDUCE_MAX": 2, "REDUCE_MIN": 2, "REDUCE_PROD": 2, "RELU": 2, "RELU6": 2,
    "RESIZE_BILINEAR": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "REVERSE_V2": 3, "RSQRT": 2, "SELECT": 2, "SLICE": 2,
    "SOFTMAX": 2, "SPACE_TO_BATCH_ND": 2, "SPACE_TO_DEPTH": 2, "SPLIT_V": 2, "SQRT": 2, "SQUARED_DIFFERENCE": 2,
    "STRIDED_SLICE": 2, "SUB": 2, "SUM": 2, "SVDF": 3, "TANH": 2, "TILE": 3, "TOPK_V2": 2, "TRANSPOSE": 2, "UNPACK": 2,
}  # fmt: skip
#: Version asked for by a 16-bit first input.
_INT16: Mapping[str, int] = {
    "ABS": 3, "ADD": 3, "AVERAGE_POOL_2D": 3, "BATCH_MATMUL": 3, "BATCH_TO_SPACE_ND": 4, "BROADCAST_TO": 3,
    "CONCATENATION": 3, "EQUAL": 5, "EXP": 2, "GATHER": 4, "GREATER_EQUAL": 3, "LEAKY_RELU": 2, "LESS": 3, "LOG": 2,
    "LOGISTIC": 3, "MAXIMUM": 4, "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 4, "MIRROR_PAD": 3, "MUL": 4, "NOT_EQUAL": 4,
    "PACK": 3, "PAD": 3, "PADV2": 3, "REDUCE_MAX": 3, "REDUCE_MIN": 3, "REDUCE_PROD": 2, "RELU": 3, "RELU6": 3,
    "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "RSQRT": 3, "SLICE": 4, "SOFTMAX": 3, "SPACE_TO_BATCH_ND": 4,
    "SQRT": 2, "SUB": 5, "TANH": 3, "TOPK_V2": 3, "TRANSPOSE": 5, "UNPACK": 4,
}  # fmt: skip


class Operands(NamedTuple):
    """The tensors that an operator reads (absent ones left out) and writes; ``slots`` counts absent inputs as well."""

    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    slots: int


def required_version(operator: OperatorFacts, graph: GraphFacts) -> int:
    """Return the lowest version of the operator whose kernel computes with the types that its tensors have."""
    inputs = [graph.tensors[number] for number in operator.inputs if number >= 0]
    outputs = [graph.tensors[number] for number in operator.outputs]
    special = _SPECIAL.get(operator.name)
    if not inputs or operator.custom:
        return 1
    if special is not None:
        return special(Operands(inputs, outputs, len(operator.inputs)))
    return _by_type(operator.name, inputs[0])


def raised_version(operator: OperatorFacts, graph: GraphFacts) -> int:
    """Return the version to write: what the types ask for, or more where the options asked for more already."""
    return max(operator.version, required_version(operator, graph))


def minimum_runtime_version(versions: Mapping[str, int]) -> str:
    """Return the oldest runtime release that knows each operator in that version.

    An operator or a version that is not known here asks for a release newer than all that are.
    """
    releases = [release_of(name, version) for name, version in versions.items()]
    return max(releases, key=release_key, default="1.5.0")


def release_key(version: str) -> tuple[int, ...]:
    """Return a sort key for versions of numbers with dots between them; what is no number of a release counts as 0."""
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else 0 for part in version.split("."))


def is_older(version: str, than: str) -> bool:
    """Tell whether one release came before another; missing parts count as 0 (2.14 is 2.14.0)."""
    pairs = list(zip_longest(release_key(version), release_key(than), fillvalue=0))
    return [a for a, _ in pairs] < [b for _, b in pairs]


def _by_type(name: str, tensor: TensorFacts) -> int:
    if tensor.dtype == "int8":
        return _INT8.get(name, 1)
    if tensor.dtype == "int16":
        return _INT16.get(name, 1)
    return 1


def _per_channel(tensor: TensorFacts) -> bool:
    return len(tensor.scales) > 1


def _conv_2d(operands: Operands) -> int:
    data, weights = operands.inputs[0].dtype, operands.inputs[1].dtype
    if data == "float32":
        return {"int8": 5 if _per_channel(operands.inputs[1]) else 2}.get(weights, 1)
    return {"int4": 7, "int8": 4 if data == "int16" else 3}.get(weights, 1)


def _depthwise_conv_2d(operands: Operands) -> int:
    data, weights = operands.inputs[0].dtype, operands.inputs[1].dtype
    if data == "float32":
        return {"int8": 6 if _per_channel(operands.inputs[1]) else 4}.get(weights, 1)
    return {"int4": 7, "int8": 5 if data == "int16" else 3}.get(weights, 1)


def _fully_connected(operands: Operands) -> int:
    data, weights = operands.inputs[0].dtype, operands.inputs[1].dtype
    if weights == "int2":
        return 14
    if data == "float32" and weights in ("int8", "int4"):
        return 12 if _per_channel(operands.inputs[1]) else 3
    by_types = {("int16", "int4"): 13, ("int16", "int8"): 7, ("int8", "int4"): 10, ("int8", "int8"): 4}
    return max(by_types.get((data, weights), 1), 6 if operands.slots == 2 else 1)


def _transpose_conv(operands: Operands) -> int:
    if len(operands.inputs) > 3:  # with bias
        return 3
    return 2 if operands.inputs[1].dtype == "int8" else 1


def _mul(operands: Operands) -> int:
    scales = [tensor.scales[0] if tensor.scales else 0.0 for tensor in (*operands.inputs[:2], operands.outputs[0])]
    if operands.inputs[0].dtype == "int8" and all(scales) and scales[0] * scales[1] / scales[2] >= 1.0:
        return 3
    return _by_type("MUL", operands.inputs[0])


def _split(operands: Operands) -> int:
    return {"int8": 2, "int32": 3, "int16": 4}.get(operands.inputs[1].dtype, 1)


def _quantize(operands: Operands) -> int:
    if "int4" in (operands.inputs[0].dtype, operands.outputs[0].dtype):
        return 4
    if _per_channel(operands.outputs[0]):
        return 3
    return 2 if operands.outputs[0].dtype == "int16" else 1


def _dequantize(operands: Operands) -> int:
    if operands.inputs[0].dtype == "int8" and _per_channel(operands.inputs[0]):
        return 5
    return {"int2": 7, "int4": 6, "int16": 3, "float16": 3, "int8": 2}.get(operands.inputs[0].dtype, 1)


def _l2_normalization(operands: Operands) -> int:
    return 2 if operands.outputs[0].dtype == "int8" else 1


_SPECIAL: Mapping[str, Callable[[Operands], int]] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected,
    "L2_NORMALIZATION": _l2_normalization,
    "MUL": _mul,
    "QUANTIZE": _quantize,
    "SPLIT": _split,
    "TRANSPOSE_CONV": _transpose_conv,
}
