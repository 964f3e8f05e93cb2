# SPDX-License-Identifier: Apache-2.0
"""The calibration pass: run samples through the float model on the reference kernels and note what each tensor holds.

The reference kernels give the same bits on every processor, and no operator is fused away, so a hash does not depend
on the machine.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converter.core.ranges import ChannelStatistics, channel_statistics
from edgefleet.contracts.errors import ModelFailedError

Array = npt.NDArray[Any]


class Observation(NamedTuple):
    """One sample's tensors by name, and the model's first output."""

    statistics: dict[str, ChannelStatistics]
    output: Array


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
        self._output = int(self._interpreter.get_output_details()[0]["index"])
        self._watched = [
            (str(detail["name"]), int(detail["index"]))
            for detail in self._interpreter.get_tensor_details()
            if detail["dtype"] == np.float32 and str(detail["name"]) not in constants
        ]

    def observe(self, samples: Iterable[Sequence[Array]]) -> Iterator[Observation]:
        """Yield what each sample (one array an input, as the model takes them) makes of the tensors.

        Raises:
            ModelFailedError: the interpreter failed on a sample.
        """
        for sample in samples:
            self._invoke(sample)
            yield Observation(dict(self._read()), self._interpreter.get_tensor(self._output))

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

    def _read(self) -> Iterator[tuple[str, ChannelStatistics]]:
        for name, tensor_id in self._watched:
            values = self._interpreter.get_tensor(tensor_id)
            if values.size:
                yield name, channel_statistics(values)
