# SPDX-License-Identifier: Apache-2.0
"""Run a model on the reference kernels with every tensor kept, and read what its layers made of a sample."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.running.kept_tensors import keeping_interpreter
from edgefleet.contracts.errors import ModelFailedError
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]


class LayerOutputs:
    """A model whose tensors can all be read after each inference; not for use from two threads at once.

    Raises:
        UnsupportedModelError: the reference kernels cannot load the model.
    """

    def __init__(self, model: bytes) -> None:
        self.facts = read_facts(model)
        self._inputs = LiteRtInterpreter(model, kernels="reference").inputs
        self._interpreter = keeping_interpreter(model)
        self._input_ids = [int(detail["index"]) for detail in self._interpreter.get_input_details()]

    def invoke(self, sample: Sequence[Array]) -> None:
        """Run one sample: one array an input, real values.

        Raises:
            SampleError: the sample does not fit.
            ModelFailedError: the interpreter failed.
        """
        try:
            for tensor_id, value in zip(self._input_ids, to_model_inputs(sample, self._inputs), strict=True):
                self._interpreter.set_tensor(tensor_id, value)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelFailedError(
                f"the model failed on a sample: {str(error).strip()}", hint="check the samples' values and the model"
            ) from error

    def read(self, numbers: Iterable[int]) -> list[Array]:
        """Return these tensors of the last inference as real values."""
        return [self._real(number) for number in numbers]

    def _real(self, number: int) -> Array:
        values: Array = self._interpreter.get_tensor(number)
        tensor = self.facts.tensors[number]
        if not tensor.quantized:
            return values
        return (values.astype(np.float64) - tensor.zero_points[0]) * tensor.scales[0]
