# SPDX-License-Identifier: Apache-2.0
"""The calibration pass: run samples through the float model on the reference kernels and note each tensor's range.

The reference kernels give the same bits on every processor, and no operator is fused away, so a hash does not depend
on the machine.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.ranges import Range
from edgefleet.contracts.errors import ModelFailedError

Array = npt.NDArray[Any]


class Calibrator:
    """A float model whose tensors can all be read after each inference."""

    def __init__(self, model: bytes, constants: frozenset[str]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the memory that kept tensors take is wanted here
            self._interpreter = Interpreter(
                model_content=model,
                experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
                experimental_preserve_all_tensors=True,
            )
        self._interpreter.allocate_tensors()
        self._inputs = [int(detail["index"]) for detail in self._interpreter.get_input_details()]
        self._watched = [
            (str(detail["name"]), int(detail["index"]))
            for detail in self._interpreter.get_tensor_details()
            if detail["dtype"] == np.float32 and str(detail["name"]) not in constants
        ]

    def ranges(self, samples: Iterable[Sequence[Array]]) -> Iterator[dict[str, Range]]:
        """Yield the ranges of each sample (one array an input, as the model takes them).

        Raises:
            ModelFailedError: the interpreter failed on a sample.
        """
        for sample in samples:
            self._invoke(sample)
            yield dict(self._read_ranges())

    def _invoke(self, sample: Sequence[Array]) -> None:
        try:
            for tensor_id, value in zip(self._inputs, sample, strict=True):
                self._interpreter.set_tensor(tensor_id, value)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelFailedError(
                f"the float model failed on a calibration sample: {str(error).strip()}",
                hint="check the samples' values and the model",
            ) from error

    def _read_ranges(self) -> Iterator[tuple[str, Range]]:
        for name, tensor_id in self._watched:
            values = self._interpreter.get_tensor(tensor_id)
            if values.size:
                yield name, Range(float(values.min()), float(values.max()))
