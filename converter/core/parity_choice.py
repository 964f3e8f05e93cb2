# SPDX-License-Identifier: Apache-2.0
"""Which inputs become parity vectors, and how far the reference kernels may differ. Nothing is drawn by chance."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.steadiness import power_of_two
from edgefleet.contracts.manifest import TensorSpec

Array = npt.NDArray[Any]
_MOST = 8
_FEWEST = 2
_LIMIT_BYTES = 1 << 18


def parity_count(sample_bytes: int, available: int | None) -> int:
    """Return how many vectors a bundle carries: eight, or fewer where inputs are large or samples few."""
    fitting = max(_FEWEST, min(_MOST, _LIMIT_BYTES // max(sample_bytes, 1)))
    return fitting if available is None else min(fitting, available)


def spread(count: int, available: int) -> list[int]:
    """Return ``count`` positions spread evenly over ``available`` samples."""
    return [number * available // count for number in range(count)]


def made_up_inputs(specs: tuple[TensorSpec, ...], number: int) -> list[Array]:
    """Return inputs for a model without samples: the same for ever, over the whole range of an integer tensor.

    The bytes come from SHAKE-256 of the vector's number and the input's position; floats lie in [0, 1).
    """
    return [_made_up(spec, f"edgefleet parity {number} {position}") for position, spec in enumerate(specs)]


def _made_up(spec: TensorSpec, seed: str) -> Array:
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    count = int(np.prod(spec.shape))
    if dtype.kind == "f":
        raw = hashlib.shake_256(seed.encode()).digest(count * 2)
        return (np.frombuffer(raw, "<u2").astype(np.float64) / 65536.0).astype(dtype).reshape(spec.shape)
    raw = hashlib.shake_256(seed.encode()).digest(count * dtype.itemsize)
    if dtype.kind == "b":
        return (np.frombuffer(raw, np.uint8) & 1).astype(np.bool_).reshape(spec.shape)
    return np.frombuffer(raw, dtype).reshape(spec.shape)


def reference_tolerance(unit: str, largest: float) -> float:
    """Return the tolerance for the reference kernels: none for integers, rounding of sums for floats.

    ``largest`` is the largest absolute output; compilers may fuse multiply and add, so floats agree to about 2^-16.
    """
    return 0.0 if unit == "lsb" else power_of_two(max(largest, 1.0) * 2.0**-16)
