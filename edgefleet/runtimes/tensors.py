# SPDX-License-Identifier: Apache-2.0
"""Between real values and a model's tensors: ``real = scale * (quantized - zero_point)``."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import TensorSpec

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
#: Kinds of numpy dtypes that are numbers: truth values, signed, unsigned, floats.
_NUMBERS = "biuf"


def quantize(values: Array, spec: TensorSpec) -> Array:
    """Turn real values into the tensor's dtype: rounded half to even and clamped; float tensors only change dtype.

    Raises:
        SampleError: a value is NaN, which no quantized tensor can hold, or the tensor cannot hold it in another way.
    """
    dtype = np.dtype(spec.dtype)
    if values.dtype.kind not in _NUMBERS:
        raise SampleError(
            f"a sample of input '{spec.name}' has the type {values.dtype}, expected numbers",
            hint="store the samples as floats or integers",
        )
    if spec.scale is None or spec.zero_point is None:
        return _cast(values, spec, dtype)
    low, high = integer_limits(spec.dtype)
    with np.errstate(over="ignore"):  # infinite is clamped as well
        # A copy, and an array even of a single number: the steps below work in place, as this runs for every request.
        scaled = np.array(values, dtype=np.float32)
        scaled /= np.float32(spec.scale)
    np.rint(scaled, out=scaled)
    scaled += np.float32(spec.zero_point)
    if np.isnan(scaled.min(initial=np.inf)):  # a minimum with a NaN in it is NaN
        raise SampleError(
            f"a sample of input '{spec.name}' has NaN, which a tensor of {spec.dtype} cannot hold",
            hint="check what the samples were made from, and their preprocessing",
        )
    np.maximum(scaled, low, out=scaled)
    np.minimum(scaled, high, out=scaled)
    return scaled.astype(dtype)


def _cast(values: Array, spec: TensorSpec, dtype: np.dtype[Any]) -> Array:
    """Change the dtype; what an integer tensor would take as another number is refused."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # too large for a float becomes infinite; integers: see below
        cast: Array = values.astype(dtype, copy=False)
    if dtype.kind in "iu" and not np.array_equal(cast, values):
        raise SampleError(
            f"a sample of input '{spec.name}' has a number that is no {spec.dtype}",
            hint="store whole numbers in the range of the model's input",
        )
    return cast


@cache
def integer_limits(dtype: str) -> tuple[np.float32, np.float32]:
    """Return the smallest and the largest value of an integer dtype that float32 can hold without leaving it."""
    limits = np.iinfo(dtype)
    high = np.float32(limits.max)
    return np.float32(limits.min), high if int(high) <= limits.max else np.nextafter(high, np.float32(0))


def dequantize(values: Array, spec: TensorSpec) -> Floats:
    """Turn a tensor into real float32 values of the same shape."""
    if spec.scale is None or spec.zero_point is None:
        return values.astype(np.float32, copy=False)
    return (values.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)


def to_model_inputs(sample: Sequence[Array], specs: Sequence[TensorSpec]) -> list[Array]:
    """Quantize one sample, one real-valued array an input; a missing batch dimension of 1 is added.

    Raises:
        SampleError: another number of arrays than inputs, or a shape that does not fit.
    """
    if len(sample) != len(specs):
        raise SampleError(
            f"a sample has {len(sample)} arrays, the model has {len(specs)} inputs",
            hint="give one array for each input, by its name",
        )
    return [quantize(_batched(value, spec), spec) for value, spec in zip(sample, specs, strict=True)]


def _batched(value: Array, spec: TensorSpec) -> Array:
    if value.shape == spec.shape:
        return value
    if (1, *value.shape) == spec.shape:
        return value[np.newaxis]
    if value.shape == tuple(size for size in spec.shape if size != 1):
        return value.reshape(spec.shape)
    raise SampleError(
        f"a sample of input '{spec.name}' has shape {list(value.shape)}, the model expects {list(spec.shape)}",
        hint="check the samples, or name a preprocessing file with --preprocessing",
    )
