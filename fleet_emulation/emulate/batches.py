# SPDX-License-Identifier: Apache-2.0
"""Batches as boards read them, and what boards answer as arrays."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.c.core.program import Value
from edgefleet.contracts.errors import SampleError

Array = npt.NDArray[Any]


def batch_bytes(batches: Sequence[Array], inputs: Sequence[Value]) -> bytes:
    """Return a batch as the board reads it: all inputs of a sample, then those of the next; one array an input.

    Raises:
        SampleError: an array is of another type or shape, or they have different numbers of samples.
    """
    for batch, value in zip(batches, inputs, strict=True):
        _check(batch, value, alone=len(inputs) == 1)
    lengths = {value.name: len(batch) for batch, value in zip(batches, inputs, strict=True)}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{length} of '{name}'" for name, length in lengths.items())
        raise SampleError(f"the batch has different numbers of samples: {said}", hint="store as many of each input")
    rows = [_little_endian(batch).view(np.uint8).reshape(len(batch), -1) for batch in batches]
    return np.concatenate(rows, axis=1).tobytes()


def first_output(data: bytes, samples: int, outputs: Sequence[Value]) -> Array:
    """Return the first output of each sample, first axis samples."""
    sizes = [prod(value.shape) * np.dtype(value.dtype).itemsize for value in outputs]
    rows = np.frombuffer(data, np.uint8).reshape(samples, sum(sizes))[:, : sizes[0]]
    first = np.ascontiguousarray(rows).view(np.dtype(outputs[0].dtype).newbyteorder("<"))
    return first.reshape(samples, *_of_one(outputs[0].shape))


def _of_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a tensor's shape as one sample has it: without a batch axis of 1 in front."""
    return shape[1:] if shape[:1] == (1,) else shape


def _check(batch: Array, value: Value, *, alone: bool) -> None:
    of_sample = _of_one(value.shape)
    if batch.dtype.name == value.dtype and len(batch) and batch.shape[1:] in (value.shape, of_sample):
        return
    which = ("the batch", "the model takes") if alone else (f"the batch of '{value.name}'", "this input is")
    raise SampleError(
        f"{which[0]} is {batch.dtype.name}{list(batch.shape)}, and {which[1]} {value.dtype}{list(of_sample)} "
        "behind the axis of samples",
        hint="quantize the samples as the model's input says, and put them along the first axis",
    )


def _little_endian(batch: Array) -> Array:
    return np.ascontiguousarray(batch).astype(batch.dtype.newbyteorder("<")).reshape(len(batch), -1)
