# SPDX-License-Identifier: Apache-2.0
"""Samples that a Python program holds in memory: the same set as the file that would hold them, with the same hash."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.samples.generators import GeneratedSamples
from converter.adapters.samples.sets import ArraySamples, SampleSet
from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.runtimes.examples import LABELS, ONLY_INPUT, input_arrays

Array = npt.NDArray[Any]
#: An array whose first axis counts samples; a pair of such an array and its labels; a mapping of one array an input by
#: name, with labels under ``y``; an iterable of single samples, or a function without arguments that returns one: it
#: yields arrays, pairs of an array and its label, or mappings of one array an input.
HeldSamples = Array | tuple[Array, Array] | Mapping[str, Array] | Iterable[object] | Callable[[], Iterable[object]]
_HINT = (
    "give a path; an array, a pair (array, labels) or a mapping of arrays by input name, the first axis counting "
    "samples; or an iterable of samples"
)


def open_held(held: HeldSamples, name: str, input_names: Sequence[str]) -> SampleSet:
    """Return samples in memory as a set; ``name`` is what messages call it.

    Raises:
        InputError: an iterable of the caller's fails.
        SampleError: what is held is no samples, or contradicts itself.
    """
    if isinstance(held, np.ndarray):
        return _from_arrays({ONLY_INPUT: held}, name, input_names)
    if isinstance(held, Mapping):
        return _from_arrays(held, name, input_names)
    if isinstance(held, tuple):
        if len(held) != 2:
            raise SampleError(f"{name} is a tuple of {len(held)}, expected an array and its labels", hint=_HINT)
        return _from_arrays({ONLY_INPUT: held[0], LABELS: held[1]}, name, input_names)
    return _generated(held, name, input_names)


def _from_arrays(given: Mapping[str, Any], name: str, input_names: Sequence[str]) -> ArraySamples:
    arrays = {key: np.asarray(value) for key, value in given.items()}
    inputs = input_arrays(arrays.keys(), input_names)
    for wanted in inputs:
        if wanted not in arrays:
            raise SampleError(f"{name} has no array '{wanted}', only {sorted(arrays)}", hint=_HINT)
        if arrays[wanted].dtype.kind not in "biuf":
            raise SampleError(f"{name} holds {arrays[wanted].dtype} in '{wanted}', expected numbers", hint=_HINT)
    used = {*inputs, *({LABELS} & set(arrays))}
    lengths = {key: len(arrays[key]) if arrays[key].ndim else 0 for key in sorted(used)}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise SampleError(f"{name} has arrays of different or no length: {lengths}", hint=_HINT)
    return ArraySamples(name, [arrays[key] for key in inputs], None if LABELS in inputs else arrays.get(LABELS))


def _generated(
    held: Iterable[object] | Callable[[], Iterable[object]], name: str, input_names: Sequence[str]
) -> GeneratedSamples:
    try:
        return GeneratedSamples(name, held() if callable(held) else iter(held), input_names)
    except (SampleError, InputError):
        raise
    except Exception as error:  # a caller's function may raise anything
        raise InputError(f"{name} failed: {type(error).__name__}: {error}", hint=_HINT) from error
