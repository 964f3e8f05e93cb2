# SPDX-License-Identifier: Apache-2.0
"""Labelled examples as one ``.npz``: raw inputs before preprocessing, and labels. Acceptance is scored on them."""

import io
import zipfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import ACCEPTANCE_PATH, Interface
from edgefleet.runtimes.answers import read_answer
from edgefleet.runtimes.loaded_model import LoadedModel

Array = npt.NDArray[Any]
LABELS = "y"
ONLY_INPUT = "x"
_HINT = "store arrays 'x' (or one named like each input) and 'y', the first axis counting samples"


@dataclass(frozen=True)
class Examples:
    """Raw samples: one array an input (first axis samples), and one label (or target) a sample."""

    inputs: tuple[Array, ...]
    labels: Array

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def sample(self, number: int) -> list[Array]:
        """Return one sample, one array an input."""
        return [value[number] for value in self.inputs]


class AcceptanceScore(NamedTuple):
    """How a model did on the acceptance examples; ``non_finite`` counts answers with NaN or infinity."""

    samples: int
    value: float
    non_finite: int


def read_examples(data: bytes, interface: Interface, *, source: str) -> Examples:
    """Read labelled examples from the bytes of an ``.npz`` without unpickling anything.

    Raises:
        SampleError: it is no ``.npz``, lacks an array, or the arrays differ in length.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise SampleError(f"{source} is not a readable .npz: {error}", hint=_HINT) from error
    names = [ONLY_INPUT] if ONLY_INPUT in arrays else [spec.name for spec in interface.inputs]
    for name in (*names, LABELS):
        if name not in arrays:
            raise SampleError(f"{source} has no array '{name}', only {sorted(arrays)}", hint=_HINT)
    lengths = {name: len(arrays[name]) for name in (*names, LABELS)}
    if len(set(lengths.values())) != 1 or not lengths[LABELS]:
        raise SampleError(f"{source} has arrays of different or no length: {lengths}", hint=_HINT)
    return Examples(tuple(arrays[name] for name in names), arrays[LABELS])


def score_acceptance(model: LoadedModel, bundle: Bundle) -> AcceptanceScore:
    """Score a model on its bundle's acceptance examples: the share of right top-1 answers.

    Raises:
        SampleError: the examples are unreadable or do not fit the model.
        ModelFailedError: the interpreter failed.
    """
    examples = read_examples(bundle.read(ACCEPTANCE_PATH), bundle.manifest.interface, source=ACCEPTANCE_PATH)
    answers = [read_answer(model.answer(examples.sample(number))) for number in range(len(examples))]
    right = sum(a.finite and a.top == int(label) for a, label in zip(answers, examples.labels, strict=True))
    return AcceptanceScore(len(examples), right / len(examples), sum(not a.finite for a in answers))
