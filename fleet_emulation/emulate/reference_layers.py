# SPDX-License-Identifier: Apache-2.0
"""What each layer of a model makes of some samples, as the interpreter computes it whose numerics the model names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.every_output import with_every_output
from converter.c.core.program import Value
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.manifest import Numerics, TensorSpec
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.parity import read_vectors
from edgefleet.runtimes.tflm import TflmInterpreter

Array = npt.NDArray[Any]
#: What layers made: by the number of the tensor, one array a sample, in execution order.
LayerOutputs = Mapping[int, Sequence[Array]]
_BUNDLE = ".bundle"
_SEED = 0
_SAMPLES = 4


@dataclass(frozen=True)
class Reference:
    """A model that shows its layers, the samples, and what the reference made of them.

    ``inputs`` has an array for each input, first axis samples; ``names`` are the tensors' names by number.
    """

    model: bytes
    inputs: Sequence[Array]
    numbers: tuple[int, ...]
    layers: LayerOutputs
    names: Mapping[int, str]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.inputs[0])

    def sample_bytes(self) -> bytes:
        """Return the inputs of each sample, one sample after the other, as a board reads them."""
        return b"".join(
            np.ascontiguousarray(values[sample]).tobytes() for sample in range(self.samples) for values in self.inputs
        )


def samples_for(path: Path, inputs: Sequence[Value]) -> list[Array]:
    """Return a bundle's parity inputs; for a bare model random ones, and both ends of the range."""
    if path.suffix == _BUNDLE:
        return read_vectors(open_bundle(path))[0]
    random = np.random.default_rng(_SEED)
    return [_drawn(random, value) for value in inputs]


def reference_layers(model: bytes, numerics: Numerics, inputs: Sequence[Array]) -> Reference:
    """Run samples on TFLM or on LiteRT's reference kernels, every layer's output kept.

    Raises:
        UnsupportedModelError: the interpreter refuses the model.
        ModelFailedError: it failed on a sample.
    """
    shown, numbers = with_every_output(model)
    interpreter: Interpreter
    interpreter = TflmInterpreter(shown) if numerics == "tflm/1" else LiteRtInterpreter(shown, kernels="reference")
    answers = [interpreter.invoke(sample) for sample in _shaped(inputs, interpreter.inputs)]
    made = {number: [answer[place] for answer in answers] for place, number in enumerate(numbers)}
    names = {number: spec.name for number, spec in zip(numbers, interpreter.outputs, strict=True)}
    return Reference(shown, inputs, numbers, made, names)


def _shaped(inputs: Sequence[Array], specs: Sequence[TensorSpec]) -> list[list[Array]]:
    return [
        [values[sample].reshape(spec.shape) for values, spec in zip(inputs, specs, strict=True)]
        for sample in range(len(inputs[0]))
    ]


def _drawn(random: np.random.Generator, value: Value) -> Array:
    shape = (_SAMPLES, *value.shape)
    if value.dtype == "float32":
        return random.standard_normal(shape).astype(np.float32)
    drawn: Array = random.integers(-128, 128, shape).astype(value.dtype)
    drawn[0], drawn[1] = -128, 127
    return drawn
