# SPDX-License-Identifier: Apache-2.0
"""Which layer of a quantized model lies how far from the float model: pairs of layers, sums over samples, figures."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converter.core.graph import GraphFacts, OperatorFacts
from edgefleet.contracts.evidence import LayerError

Array = npt.NDArray[Any]
#: The bounds of a signal-to-noise ratio: equal to the last bit, and a signal of nothing but noise.
LARGEST_SQNR_DB = 150.0
_CASTS = frozenset({"QUANTIZE", "DEQUANTIZE"})
#: Operators that move values and compute none: their error is the one of the layer before.
_MOVES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "PACK", "UNPACK", "SPLIT", "STRIDED_SLICE"})
_WEIGHTS_INPUT = 1
_WIDEST_NAME = 40


class LayerPair(NamedTuple):
    """One output that both models compute: its tensor numbers, and what the quantized model does there."""

    layer: str
    operator: str
    precision: str
    float_tensor: int
    quantized_tensor: int


def layer_pairs(before: GraphFacts, after: GraphFacts) -> tuple[LayerPair, ...]:
    """Return the layers that a float model and the model quantized from it have in common, in order of execution.

    Both compute the same operators in the same order, casts aside: then they are paired by place, whatever the tensors
    are called. Otherwise outputs of the same name are paired. Pairs of different shapes are left out, and so are
    operators that only move values.
    """
    first, second = _working(before), _working(after)
    if [operator.name for operator in first] == [operator.name for operator in second]:
        matched = list(zip(first, second, strict=True))
    else:
        named = {before.tensors[operator.outputs[0]].name: operator for operator in first}
        matched = [(named[name], o) for o in second if (name := after.tensors[o.outputs[0]].name) in named]
    return tuple(
        _pair(mine, its, before, after)
        for mine, its in matched
        if its.name not in _MOVES and before.tensors[mine.outputs[0]].shape == after.tensors[its.outputs[0]].shape
    )


def layer_precision(operator: OperatorFacts, facts: GraphFacts) -> str:
    """Return what one operator computes in, from the types of its output and of its weights."""
    output = facts.tensors[operator.outputs[0]].dtype
    weights = _weights_dtype(operator, facts)
    if output in ("int8", "uint8"):
        return "int4" if weights == "int4" else output
    if output == "int16":
        return "int16x8" if weights == "int8" else "int16"
    if output == "float32" and weights in ("int8", "int4", "float16"):
        return "float16" if weights == "float16" else f"dynamic-{weights}"
    return output


class ErrorSums:
    """The sums over samples that one layer's figures follow from, in float64."""

    def __init__(self) -> None:
        self._signal = self._noise = self._product = self._quantized = 0.0

    def add(self, wanted: Array, got: Array) -> None:
        """Take in one sample's output of the float model and of the quantized one, both real values of one shape."""
        x, q = wanted.astype(np.float64).reshape(-1), got.astype(np.float64).reshape(-1)
        self._signal += float(np.sum(x * x))
        self._noise += float(np.sum((x - q) ** 2))
        self._product += float(np.sum(x * q))
        self._quantized += float(np.sum(q * q))

    def sqnr_db(self) -> float:
        """Return ``10 log10(signal / noise)``, within ±``LARGEST_SQNR_DB``; a NaN is noise without end."""
        if self._noise == 0.0:
            return LARGEST_SQNR_DB
        if not self._signal or not math.isfinite(self._noise) or not math.isfinite(self._signal):
            return -LARGEST_SQNR_DB
        return max(-LARGEST_SQNR_DB, min(LARGEST_SQNR_DB, 10.0 * math.log10(self._signal / self._noise)))

    def cosine(self) -> float:
        """Return the cosine between both; 1 where both are zero throughout, 0 where one is or a value is NaN."""
        if self._noise == 0.0:
            return 1.0
        length = math.sqrt(self._signal) * math.sqrt(self._quantized)
        found = self._product / length if length else 0.0
        return max(-1.0, min(1.0, found)) if math.isfinite(found) else 0.0


def layer_errors(pairs: Sequence[LayerPair], sums: Sequence[ErrorSums]) -> tuple[LayerError, ...]:
    """Return the layers with their figures, the worst first, equal ones in order of execution."""
    found = [
        LayerError(
            layer=pair.layer,
            operator=pair.operator,
            precision=pair.precision,
            sqnr_db=total.sqnr_db(),
            cosine=total.cosine(),
        )
        for pair, total in zip(pairs, sums, strict=True)
    ]
    return tuple(sorted(found, key=lambda layer: layer.sqnr_db))


def layer_table(layers: Sequence[LayerError]) -> str:
    """Return the layers as a text table, one line a layer."""
    width = max([5, *(len(short_name(layer.layer)) for layer in layers)])
    lines = [f"{'SQNR':>9}  {'cosine':>8}  {'layer':<{width}}  operator"]
    lines += [
        f"{layer.sqnr_db:>6.1f} dB  {layer.cosine:>8.5f}  {short_name(layer.layer):<{width}}  "
        f"{layer.operator} ({layer.precision})"
        for layer in layers
    ]
    return "\n".join(lines)


def short_name(name: str) -> str:
    """Return a tensor's name fit for a table: the first of fused names, and its end where it is long."""
    first = name.partition(";")[0] or "(no name)"
    return first if len(first) <= _WIDEST_NAME else "…" + first[1 - _WIDEST_NAME :]


def _working(facts: GraphFacts) -> list[OperatorFacts]:
    """Return the operators that are compared: a post-process of detections orders rows, and leaves some unwritten."""
    return [o for o in facts.operators if o.name not in _CASTS and o.outputs and not o.custom]


def _pair(mine: OperatorFacts, its: OperatorFacts, before: GraphFacts, after: GraphFacts) -> LayerPair:
    return LayerPair(
        layer=before.tensors[mine.outputs[0]].name,
        operator=its.name,
        precision=layer_precision(its, after),
        float_tensor=mine.outputs[0],
        quantized_tensor=its.outputs[0],
    )


def _weights_dtype(operator: OperatorFacts, facts: GraphFacts) -> str | None:
    """Return the type that an operator's weights are stored in (before a DEQUANTIZE, if any); None without weights."""
    if len(operator.inputs) <= _WEIGHTS_INPUT:
        return None
    number = operator.inputs[_WEIGHTS_INPUT]
    for other in facts.operators:
        if other.name == "DEQUANTIZE" and number in other.outputs:
            number = other.inputs[0]
    tensor = facts.tensors[number]
    return tensor.dtype if tensor.constant_bytes else None
