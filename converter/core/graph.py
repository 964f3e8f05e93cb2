# SPDX-License-Identifier: Apache-2.0
"""A model's graph as facts: operators, tensors, types and quantization, without weights."""

from dataclasses import dataclass

_BITS = {"int2": 2, "int4": 4, "int8": 8, "uint8": 8, "int16": 16}
QUANTIZED_DTYPES = frozenset(_BITS)
#: What turns scores into probabilities, and makes most differences between scores vanish.
_SQUASHING = frozenset({"SOFTMAX", "LOGISTIC"})
#: The one custom operator that every runtime has: boxes, scores and anchors in; boxes, classes, scores and count out.
POST_PROCESS = "TFLite_Detection_PostProcess"
_SCORES_INPUT = 1
#: Operators that only change the representation; a graph of nothing else computes nothing.
_CASTS = frozenset({"QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True)
class TensorFacts:
    """One tensor; ``scales`` and ``zero_points`` are empty where it is not quantized."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant_bytes: int
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()

    @property
    def quantized(self) -> bool:
        """Tell whether the tensor holds integers that stand for real values."""
        return self.dtype in QUANTIZED_DTYPES and bool(self.scales)


@dataclass(frozen=True)
class OperatorFacts:
    """One operator: name as TFLite's schema writes it (a custom one by its own name), version, tensor numbers.

    ``flags`` are the names of its options that are switched on (``adjY``, ``keepDims``).
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool = False
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class GraphFacts:
    """The first subgraph of a model, and what the file says of the whole."""

    operators: tuple[OperatorFacts, ...]
    tensors: tuple[TensorFacts, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: int
    size_bytes: int
    minimum_runtime_version: str | None

    def operator_names(self) -> tuple[str, ...]:
        """Return the names of all operators, sorted, each once."""
        return tuple(sorted({operator.name for operator in self.operators}))

    def precision(self) -> str:
        """Return what the graph computes in, in the words of a recipe.

        ``int8``, ``int16x8`` and ``int4`` need integer inputs, outputs and operators throughout, and activations of one
        width; ``mixed`` has several kinds. What no board lists (``dynamic-int4``, ``int2``) has a name as well.
        """
        weights, activations = self._weight_bits(), self._activation_bits()
        if not weights and not activations:
            half = any(t.dtype == "float16" and t.constant_bytes for t in self.tensors)
            return "float16" if half else "float32"
        narrowest = min(weights, default=8)
        if not activations:
            return f"dynamic-int{narrowest}"
        if len(activations) > 1 or self.operators_in_float() or self._float_ends():
            return "mixed"
        if activations == {16}:
            return "int16x8" if narrowest >= 8 else "mixed"
        return "int8" if narrowest >= 8 else f"int{narrowest}"

    def operators_in_float(self) -> tuple[str, ...]:
        """Return the names of operators that compute in float, sorted, each once; casts do not count."""
        return tuple(
            sorted(
                {
                    operator.name
                    for operator in self.operators
                    if operator.name not in _CASTS
                    and any(self.tensors[number].dtype == "float32" for number in operator.outputs)
                }
            )
        )

    def score_tensor(self) -> int:
        """Return the number of the tensor that the first output's squashing operator reads, or of that output.

        Of a detector that ends in a post-process, it is the scores that this reads.
        """
        output = self.outputs[0]
        producers = [operator for operator in self.operators if output in operator.outputs]
        if producers and producers[0].name == POST_PROCESS:
            output = producers[0].inputs[_SCORES_INPUT]
        if producers and producers[0].name in _SQUASHING:
            return producers[0].inputs[0]
        return output

    def custom_outputs(self) -> frozenset[int]:
        """Return the numbers of tensors that custom operators write: no quantizer reaches them.

        The rows of detections that a post-process leaves out hold whatever was in the memory.
        """
        return frozenset(number for operator in self.operators if operator.custom for number in operator.outputs)

    def _weight_bits(self) -> set[int]:
        return {_BITS[t.dtype] for t in self.tensors if t.quantized and t.constant_bytes}

    def _activation_bits(self) -> set[int]:
        """Return the widths of what flows through the graph; state that an operator keeps to itself does not count."""
        flowing = {*self.inputs, *(number for operator in self.operators for number in operator.outputs)}
        return {_BITS[self.tensors[number].dtype] for number in flowing if self.tensors[number].quantized}

    def _float_ends(self) -> bool:
        return any(self.tensors[number].dtype == "float32" for number in (*self.inputs, *self.outputs))
