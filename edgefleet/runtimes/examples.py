# SPDX-License-Identifier: Apache-2.0
"""Labelled examples as one ``.npz``: raw inputs before preprocessing, and labels. Acceptance is scored on them."""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES, Bundle
from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import ACCEPTANCE_PATH, Interface
from edgefleet.runtimes.answers import read_answer
from edgefleet.runtimes.loaded_model import LoadedModel

Array = npt.NDArray[Any]
LABELS = "y"
ONLY_INPUT = "x"
#: What numpy and zipfile raise for files that are damaged, compressed otherwise, encrypted, or lie about a size.
_UNREADABLE = (
    ValueError, OSError, EOFError, KeyError, RuntimeError, SyntaxError, MemoryError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
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


def input_arrays(stored: Collection[str], input_names: Sequence[str]) -> list[str]:
    """Return which of an ``.npz``'s arrays are the inputs: ``x``, unless it is one of several that are all there."""
    several = len(input_names) > 1 and set(input_names) <= set(stored)
    return [ONLY_INPUT] if ONLY_INPUT in stored and not several else list(input_names)


def read_examples(data: bytes, interface: Interface, *, source: str) -> Examples:
    """Read labelled examples from the bytes of an ``.npz`` without unpickling anything.

    Raises:
        SampleError: it is no ``.npz``, lacks an array, or the arrays differ in length.
    """
    arrays = read_npz(io.BytesIO(data), source=source, limit_bytes=BUNDLE_LIMIT_BYTES)
    names = input_arrays(arrays, [spec.name for spec in interface.inputs])
    for name in (*names, LABELS):
        if name not in arrays:
            raise SampleError(f"{source} has no array '{name}', only {sorted(arrays)}", hint=_HINT)
    lengths = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in (*names, LABELS)}
    if len(set(lengths.values())) != 1 or not lengths[LABELS]:
        raise SampleError(f"{source} has arrays of different or no length: {lengths}", hint=_HINT)
    return Examples(tuple(arrays[name] for name in names), arrays[LABELS])


def score_acceptance(model: LoadedModel, bundle: Bundle) -> AcceptanceScore:
    """Score a model on its bundle's acceptance examples: the share of right top-1 answers.

    Raises:
        SampleError: the examples are unreadable, have labels that are no class numbers, or do not fit the model.
        ModelFailedError: the interpreter failed.
    """
    examples = read_examples(bundle.read(ACCEPTANCE_PATH), bundle.manifest.interface, source=ACCEPTANCE_PATH)
    _check_labels(examples.labels, ACCEPTANCE_PATH)
    answers = [read_answer(model.answer(examples.sample(number))) for number in range(len(examples))]
    right = sum(a.finite and a.top == int(label) for a, label in zip(answers, examples.labels, strict=True))
    return AcceptanceScore(len(examples), right / len(examples), sum(not a.finite for a in answers))


def read_npz(stored: Path | io.BytesIO, *, source: str, limit_bytes: int, hint: str = _HINT) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` without unpickling anything; a few packed bytes may stand for a full memory.

    Raises:
        SampleError: it is no ``.npz``, or unpacks to more than ``limit_bytes``.
    """
    if not zipfile.is_zipfile(stored):  # numpy would take a bare .npy as well, or a pickle
        raise SampleError(f"{source} is not a readable .npz: it is no zip file", hint=hint)
    try:
        with zipfile.ZipFile(stored) as archive:  # what a member is said to hold is all that is ever read of it
            size_bytes = sum(member.file_size for member in archive.infolist())
        if size_bytes > limit_bytes:
            raise SampleError(
                f"{source} unpacks to {size_bytes} bytes, over the limit of {limit_bytes}",
                hint="give fewer samples, or a folder of files, which are read one at a time",
            )
        with np.load(stored, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except _UNREADABLE as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SampleError(f"{source} is not a readable .npz: {what}", hint=hint) from error


def _check_labels(labels: Array, source: str) -> None:
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all()))
    if labels.ndim != 1 or not whole:
        raise SampleError(
            f"{source} has labels of {labels.dtype} with shape {list(labels.shape)}, "
            "expected class numbers with shape [samples]",
            hint="store 'y' as whole numbers, one a sample",
        )
