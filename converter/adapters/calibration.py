# SPDX-License-Identifier: Apache-2.0
"""The calibration pass: run samples through the float model on the reference kernels and note what each tensor holds.

The reference kernels give the same bits on every processor, and no operator is fused away, so a hash does not depend
on the machine.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.graph import GraphFacts
from converter.core.ranges import ChannelStatistics, channel_statistics
from edgefleet.contracts.errors import ModelFailedError
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]


class Calibrator:
    """A float model whose tensors can all be read after each inference."""

    def __init__(self, model: bytes, constants: frozenset[str]) -> None:
        self._interpreter = _keeping_interpreter(model)
        self._inputs = [int(detail["index"]) for detail in self._interpreter.get_input_details()]
        self._watched = [
            (str(detail["name"]), int(detail["index"]))
            for detail in self._interpreter.get_tensor_details()
            if detail["dtype"] == np.float32 and str(detail["name"]) not in constants
        ]

    def observe(self, samples: Iterable[Sequence[Array]]) -> Iterator[dict[str, ChannelStatistics]]:
        """Yield what each sample (one array an input, as the model takes them) makes of the tensors, by name.

        Raises:
            ModelFailedError: the interpreter failed on a sample.
        """
        for sample in samples:
            self._invoke(sample)
            yield dict(self._read())

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
            try:
                values = self._interpreter.get_tensor(tensor_id)
            except ValueError:  # it has no memory of its own; the quantizer names a tensor whose range it misses
                continue
            if values.size:
                yield name, channel_statistics(values)


def read_scores(model: bytes, facts: GraphFacts, samples: Iterable[Sequence[Array]]) -> list[Array]:
    """Return a model's scores for real-valued samples: the first output, before a softmax or logistic function.

    Differences between scores tell two models apart where their probabilities are all near 0 and 1.
    """
    interpreter = _keeping_interpreter(model)
    inputs = LiteRtInterpreter(model, kernels="reference").inputs
    input_ids = [int(detail["index"]) for detail in interpreter.get_input_details()]
    number = facts.score_tensor()
    tensor = facts.tensors[number]
    scores = []
    for sample in samples:
        for tensor_id, value in zip(input_ids, to_model_inputs(sample, inputs), strict=True):
            interpreter.set_tensor(tensor_id, value)
        interpreter.invoke()
        values = interpreter.get_tensor(number).astype(np.float64)
        scores.append((values - tensor.zero_points[0]) * tensor.scales[0] if tensor.quantized else values)
    return scores


def _keeping_interpreter(model: bytes) -> Any:
    """Return LiteRT's interpreter on reference kernels, all tensors kept for reading."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the memory that kept tensors take is wanted here
        interpreter = Interpreter(
            model_content=model,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    return interpreter
