# SPDX-License-Identifier: Apache-2.0
"""Tensors of a loaded model that never move: these are written and read in place, which spares a copy each.

The runtime plans the memory of a model anew, and may move all of it, when an operator finds out its output's size only
as it runs. So a tensor is used in place where every operator of the model is one whose output's size follows from its
first input's and from constants: then nothing is planned again after the tensors were allocated.
"""

from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]
#: The size of the output follows from the sizes of the inputs.
_OF_SIZES = frozenset(
    (
        *("ABS", "ADD", "ADD_N", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DELEGATE", "DEPTHWISE_CONV_2D"),
        *("DEQUANTIZE", "DIV", "ELU", "EXP", "FULLY_CONNECTED", "GELU", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU"),
        *("LOG_SOFTMAX", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MUL", "PRELU", "QUANTIZE", "RELU"),
        *("RELU6", "RSQRT", "SOFTMAX", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH"),
    )
)
#: It follows from the size of the first input and the values of the others.
_OF_VALUES = frozenset(
    ("MEAN", "PAD", "PADV2", "REDUCE_MAX", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SUM", "TRANSPOSE")
)


class InPlace(NamedTuple):
    """A model's only input and its only output where they lie; both change with the next inference."""

    taken: Array
    given: Array


def in_place(interpreter: Any, taken: int, given: int) -> InPlace | None:
    """Return the views of two tensors of an interpreter whose tensors are allocated, None where one might move.

    The interpreter must outlive its views, and must not be told another size or another delegate.
    """
    inner = getattr(interpreter, "_interpreter", None)
    names = ("NumNodes", "NodeName", "NodeInputs", "NodeOutputs", "InputIndices")
    if not all(hasattr(inner, name) for name in names) or not _stays(inner):
        return None
    try:
        views = InPlace(interpreter.tensor(taken)(), interpreter.tensor(given)())
    except (ValueError, RuntimeError):  # one of them has no memory yet
        return None
    return views if all(_is_plain(view) for view in views) else None


def _stays(inner: Any) -> bool:
    nodes = range(inner.NumNodes())
    computed = {int(tensor) for node in nodes for tensor in inner.NodeOutputs(node)} | set(
        map(int, inner.InputIndices())
    )
    for node in nodes:
        name = inner.NodeName(node)
        if name in _OF_VALUES:
            if any(int(tensor) in computed for tensor in inner.NodeInputs(node)[1:]):
                return False
        elif name not in _OF_SIZES:
            return False
    return True


def _is_plain(view: Array) -> bool:
    """Tell whether an array shows what lies there; a tensor without axes comes as a number, which is a copy."""
    has_axes = bool(view.ndim and view.size)
    return has_axes and view.dtype.kind in "iufb" and view.flags.c_contiguous and view.dtype.isnative
