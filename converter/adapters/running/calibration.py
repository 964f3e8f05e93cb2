# SPDX-License-Identifier: Apache-2.0
"""The calibration pass: run samples through the float model on the reference kernels and note what each tensor holds.

The reference kernels give the same bits on every processor, and no operator is fused away, so a hash does not depend
on the machine. Samples come one at a time and none is kept: memory does not grow with their number.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.running.kept_tensors import keeping_interpreter
from converter.core.graph import GraphFacts
from converter.core.numerics.histograms import Histogram
from converter.core.numerics.ranges import ChannelTally, Range, Statistics, merge_tallies, tally
from edgefleet.contracts.errors import ModelFailedError
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]


class KeepingInterpreter:
    """A model on LiteRT's reference kernels, whose tensors can all be read after each inference.

    It may run in another thread than it was made in, but must be made in the main one: it switches warnings off
    meanwhile, which Python does for all threads.
    """

    def __init__(self, model: bytes) -> None:
        self._interpreter = keeping_interpreter(model)
        self._inputs = [int(detail["index"]) for detail in self._interpreter.get_input_details()]
        self._details = {int(detail["index"]): detail for detail in self._interpreter.get_tensor_details()}

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return tuple(_spec(self._details[number]) for number in self._inputs)

    def invoke(self, sample: Sequence[Array]) -> None:
        """Run one inference on arrays as the model takes them; its state, if it has any, starts anew.

        Raises:
            ModelFailedError: the interpreter failed.
        """
        try:
            self._interpreter.reset_all_variables()  # or threads would share samples and state by chance
            for number, value in zip(self._inputs, sample, strict=True):
                self._interpreter.set_tensor(number, value)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelFailedError(
                f"the model failed on a calibration sample: {str(error).strip()}",
                hint="check the samples' values and the model",
            ) from error

    def read(self, number: int) -> Array | None:
        """Return a tensor as it is, or None where it has no memory of its own, or no elements."""
        try:
            values: Array = self._interpreter.get_tensor(number)
        except ValueError:  # the quantizer names a tensor whose range it misses
            return None
        return values if values.size else None

    def read_real(self, number: int) -> Array:
        """Return a tensor's real values as float64; they must be there."""
        values: Array = self._interpreter.get_tensor(number).astype(np.float64)
        scale, zero_point = self._details[number]["quantization"]
        return (values - zero_point) * scale if scale else values


class Calibrator:
    """A float model that is observed: every float tensor that is no constant, and that no custom operator writes."""

    def __init__(self, model: bytes, facts: GraphFacts) -> None:
        self._model = KeepingInterpreter(model)
        self._score_tensor = facts.score_tensor()
        untouched = facts.custom_outputs()
        self._watched = [
            (tensor.name, number)
            for number, tensor in enumerate(facts.tensors)
            if tensor.dtype == "float32" and not tensor.constant_bytes and number not in untouched
        ]
        self._tallies: dict[str, ChannelTally] = {}

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self._model.input_specs

    def observe(self, sample: Sequence[Array]) -> Array:
        """Run one sample (one array an input, as the model takes them), note its tensors, and return its scores.

        Raises:
            ModelFailedError: the interpreter failed on it.
        """
        self._model.invoke(sample)
        with np.errstate(invalid="ignore", over="ignore"):
            self._tallies = merge_tallies(self._tallies, {name: tally(values) for name, values in self._read()})
        return self._model.read_real(self._score_tensor)

    def statistics(self, others: Sequence["Calibrator"] = ()) -> Statistics:
        """Return what all samples made of the tensors, by name; ``others`` have seen further samples."""
        tallies = self._tallies
        for other in others:
            tallies = merge_tallies(tallies, other._tallies)
        return {name: found.statistics() for name, found in tallies.items()}

    def _read(self) -> Iterator[tuple[str, Array]]:
        for name, number in self._watched:
            values = self._model.read(number)
            if values is not None:
                yield name, values


class Counter:
    """A float model whose tensors' values are counted in bins over their ranges."""

    def __init__(self, model: bytes, facts: GraphFacts, ranges: Mapping[str, Range]) -> None:
        self._model = KeepingInterpreter(model)
        self._numbers = {tensor.name: number for number, tensor in enumerate(facts.tensors) if tensor.name in ranges}
        self._counted = {name: Histogram.empty(ranges[name]) for name in self._numbers}

    def count(self, sample: Sequence[Array]) -> None:
        """Run one sample (one array an input, as the model takes them), and count its tensors' values."""
        self._model.invoke(sample)
        for name, number in self._numbers.items():
            values = self._model.read(number)
            if values is not None:
                self._counted[name] = self._counted[name].with_values(values)

    def histograms(self, others: Sequence["Counter"] = ()) -> dict[str, Histogram]:
        """Return the counts by name; ``others`` have seen further samples."""
        counted = dict(self._counted)
        for other in others:
            counted = {name: found.merged(other._counted[name]) for name, found in counted.items()}
        return counted


def read_scores(interpreter: KeepingInterpreter, score_tensor: int, samples: Iterable[Sequence[Array]]) -> list[Array]:
    """Return a model's scores for real-valued samples: the first output, before a softmax or logistic function.

    Differences between scores tell two models apart where their probabilities are all near 0 and 1. The quantizer
    keeps the number that the tensor has in the float model.
    """
    specs = interpreter.input_specs
    scores = []
    for sample in samples:
        interpreter.invoke(to_model_inputs(sample, specs))
        scores.append(interpreter.read_real(score_tensor))
    return scores


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=str(detail["name"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale) if scale else None,
        zero_point=int(zero_point) if scale else None,
    )
