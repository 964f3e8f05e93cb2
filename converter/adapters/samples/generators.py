# SPDX-License-Identifier: Apache-2.0
"""``module:function``: samples that a user's own generator yields, kept in a file until they are asked for.

The generator runs once, whatever its length fits on the disk, and only one sample at a time is in memory. Each item is
an array (for a model of one input), a pair of an array and its label, or a dict of one array an input by name, with an
optional label under ``y``.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.samples.digest import sample_digest
from converter.adapters.user_code.functions import load_function
from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.runtimes.examples import LABELS, input_arrays

Array = npt.NDArray[Any]
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
#: A generator that does not end is a mistake, and would fill the disk.
MOST_SAMPLES = 100_000
_HINT = "write a function without arguments that yields arrays, (array, label) pairs, or dicts of arrays by input name"


def is_generator_name(text: str) -> bool:
    """Tell whether the text has the form module:function."""
    return _NAME.fullmatch(text) is not None


class GeneratedSamples:
    """What a generator yielded: raw samples on disk, labels in memory."""

    def __init__(self, source: str, yielded: Iterable[object], input_names: Sequence[str]) -> None:
        self.source = source
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it is deleted as soon as these samples are
        self._starts: list[int] = []
        self._inputs = 0
        labels = [self._store(item, input_names) for item in yielded]
        self.labels = _label_array(labels, source)
        if not self._starts:
            raise SampleError(f"{source} yields no samples", hint=_HINT)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._starts)

    def raw(self, number: int) -> list[Array]:
        """Return one sample, one array an input."""
        self._file.seek(self._starts[number])
        return [np.lib.format.read_array(self._file, allow_pickle=False) for _ in range(self._inputs)]

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of one sample's arrays and label."""
        return sample_digest(self.raw(number), self.labels, number)

    def _store(self, item: object, input_names: Sequence[str]) -> Array | None:
        arrays, label = _parts(item, input_names, self.source)
        if len(self._starts) == MOST_SAMPLES:
            raise SampleError(f"{self.source} yields more than {MOST_SAMPLES} samples", hint="end it earlier")
        self._starts.append(self._file.tell())
        self._inputs = len(arrays)
        for array in arrays:
            np.lib.format.write_array(self._file, array, allow_pickle=False)
        return label


def run_generator(name: str, input_names: Sequence[str]) -> GeneratedSamples:
    """Run the generator that ``module:function`` names, and keep what it yields.

    Raises:
        InputError: it cannot be loaded, or fails.
        SampleError: what it yields is no sample.
    """
    function = load_function(name, what="generator", hint=_HINT)
    try:
        return GeneratedSamples(name, function(), input_names)
    except (SampleError, InputError):
        raise
    except Exception as error:  # a user's function may raise anything
        raise InputError(f"the generator '{name}' failed: {type(error).__name__}: {error}", hint=_HINT) from error


def _parts(item: object, input_names: Sequence[str], source: str) -> tuple[list[Array], Array | None]:
    """Return a yielded item as one array an input, and its label."""
    value, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if isinstance(value, Mapping):
        names = input_arrays(value.keys(), input_names)
        missing = [name for name in names if name not in value]
        if missing:
            raise SampleError(f"{source} yields a sample without '{missing[0]}', only {sorted(value)}", hint=_HINT)
        label = value.get(LABELS, label) if LABELS not in names else label
        arrays = [_array(value[name], source) for name in names]
    else:
        arrays = [_array(value, source)]
    return arrays, None if label is None else _array(label, source)


def _array(value: object, source: str) -> Array:
    try:
        array: Array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise SampleError(f"{source} yields {type(value).__name__}, expected an array of numbers", hint=_HINT)
    return array


def _label_array(labels: Sequence[Array | None], source: str) -> Array | None:
    given = [label for label in labels if label is not None]
    if not given:
        return None
    if len(given) != len(labels):
        raise SampleError(f"{source} yields {len(given)} labels for {len(labels)} samples", hint=_HINT)
    if len({label.shape for label in given}) > 1:
        raise SampleError(f"{source} yields labels of different shapes", hint=_HINT)
    return np.stack(given)
