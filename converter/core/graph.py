# SPDX-License-Identifier: Apache-2.0
"""A model's graph as facts: operators, tensors, types and quantization, without weights."""

from dataclasses import dataclass

QUANTIZED_DTYPES = frozenset({"int8", "uint8", "int16", "int4", "int2"})
#: What turns scores into probabilities, and makes most differences between scores vanish.
_SQUASHING = frozenset({"SOFTMAX", "LOGISTIC"})
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
    """One operator: name as TFLite's schema writes it (a custom one by its own name), version, tensor numbers."""

    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool = False


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

        ``int8`` and ``int16x8`` need integer inputs, outputs and operators throughout; ``mixed`` has both kinds.
        """
        if not any(tensor.quantized for tensor in self.tensors):
            half = any(t.dtype == "float16" and t.constant_bytes for t in self.tensors)
            return "float16" if half else "float32"
        if not any(tensor.quantized and not tensor.constant_bytes for tensor in self.tensors):
            return "dynamic-int8"
        if self.operators_in_float() or self._float_ends():
            return "mixed"
        return "int16x8" if self.tensors[self.inputs[0]].dtype == "int16" else "int8"

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
        """Return the number of the tensor that the first output's squashing operator reads, or of that output."""
        output = self.outputs[0]
        producers = [operator for operator in self.operators if output in operator.outputs]
        if producers and producers[0].name in _SQUASHING:
            return producers[0].inputs[0]
        return output

    def _float_ends(self) -> bool:
        return any(self.tensors[number].dtype == "float32" for number in (*self.inputs, *self.outputs))
