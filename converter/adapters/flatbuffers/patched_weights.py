# SPDX-License-Identifier: Apache-2.0
"""Put changed weights into a flatbuffer where they stand: nothing is parsed or packed again."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from converter.adapters.flatbuffers.layer_weights import with_layers
from converter.core.numerics.conditioning import Layer

Array = npt.NDArray[Any]
_DATA_FIELD = 4  # of the schema's table Buffer


def is_modern(model: bytes) -> bool:
    """Tell whether a float model has all operator codes in their newer field, and a list of signatures.

    Reads these few bytes alone, where unpacking the whole file takes a while.
    """
    root = schema.Model.GetRootAs(model, 0)
    codes = [root.OperatorCodes(number) for number in range(root.OperatorCodesLength())]
    return not root.SignatureDefsIsNone() and all(c.BuiltinCode() >= c.DeprecatedBuiltinCode() for c in codes)


class PatchedWeights:
    """A float model whose layers' weights and biases can be replaced by others of the same size."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._root = schema.Model.GetRootAs(model, 0)

    def with_layers(self, layers: Sequence[Layer]) -> bytes:
        """Return the model with these layers' weights and biases in it."""
        if not layers:
            return self._model
        patched = bytearray(self._model)
        for layer in layers:
            inputs = self._root.Subgraphs(0).Operators(layer.operator).InputsAsNumpy()
            for number, values in ((inputs[1], layer.weights), (inputs[-1], layer.bias)):
                if values is not None and not self._patch(patched, int(number), values):
                    return with_layers(self._model, layers)  # its weights lie behind the flatbuffer
        return bytes(patched)

    def weights_name(self, operator: int) -> str:
        """Return the name of the tensor that holds an operator's weights."""
        number = int(self._root.Subgraphs(0).Operators(operator).InputsAsNumpy()[1])
        return bytes(self._root.Subgraphs(0).Tensors(number).Name() or b"").decode("utf-8", "replace")

    def _patch(self, patched: bytearray, tensor: int, values: Array) -> bool:
        buffer = self._root.Buffers(self._root.Subgraphs(0).Tensors(tensor).Buffer())
        little_endian = values.astype("<f4").tobytes()
        if buffer.DataLength() != len(little_endian):
            return False
        table = buffer._tab  # the generated reader has no other way to say where bytes stand
        start = table.Vector(table.Offset(_DATA_FIELD))
        patched[start : start + len(little_endian)] = little_endian
        return True
