# SPDX-License-Identifier: Apache-2.0
"""Facts of a bundle that production kernels take part in, told so that no processor changes them.

Production kernels are other code on each processor, so that their last bits differ. A bundle's bytes must not: what
the reference kernels can tell, they tell, and production answers count only where no other processor doubts them.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import TensorSpec

Array = npt.NDArray[Any]
#: Activations of 8 bits inside, and of none: what a float input is moved by, as a share of its largest value.
SWAY_OF_INTEGERS = 2.0**-8
SWAY_OF_FLOATS = 2.0**-20
#: No smaller tolerance for integers is claimed: other processors' production kernels differ by that on most models.
_SMALLEST_LSB = 2.0
#: Of 90 pairs of a model and a mode, production kernels differed by up to 1.6 times what the moved inputs did.
_ROOM = 2.0
#: A production kernel beyond all that is given so much more that two processors hardly tell different tolerances.
_STRIDE = 16.0
#: Real values that lie closer than this share of the outputs' range may come in another order elsewhere.
_CLOSE = 2.0**-10


def swayed(sample: Sequence[Array], specs: Sequence[TensorSpec], number: int, sway: float) -> list[Array]:
    """Return an inference's inputs, each value moved by one step up, down or not at all: always the same way.

    The step is 1 for quantized integers, and the share ``sway`` of the largest value for floats. Integers that count or
    name something stay. What this does to the outputs tells how far other rounding inside the model may move them.
    """
    return [
        _moved(value, spec, sway, f"edgefleet sway {number} {position}")
        for position, (value, spec) in enumerate(zip(sample, specs, strict=True))
    ]


def production_tolerance(unit: str, *, swayed_by: float, measured: float, least: float) -> float:
    """Return the tolerance for the production kernels, a power of two.

    ``swayed_by`` is how far :func:`swayed` inputs moved the reference kernels' outputs: it decides, as it is the same
    on every processor. ``measured`` is how far this processor's production kernels lie from the reference, which
    counts only where that is more; ``least`` is a bound below which there is no sense in a tolerance.
    """
    floor = max(least, _SMALLEST_LSB if unit == "lsb" else 0.0)
    tolerance = power_of_two(max(_ROOM * swayed_by, floor))
    while tolerance < measured:
        tolerance *= _STRIDE
    return tolerance


def power_of_two(value: float) -> float:
    """Return the smallest power of two that is not below a positive value, exactly."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))


def unclear(outputs: Array, step: float, *, bins: int = 0) -> list[int]:
    """Return the samples whose class, or bin of its confidence, other kernels may tell otherwise.

    ``outputs`` are real values, (samples, …); ``step`` is what a quantized output's integer is worth, 0 for floats.
    ``bins`` are those of the confidence between 0 and 1; with 0 only the class counts.
    """
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    values = np.where(finite[:, np.newaxis], flat, 0.0)
    close = 1.5 * step or _CLOSE * float(np.ptp(values))
    ordered = np.sort(values, axis=1)
    doubtful: npt.NDArray[np.bool_] = np.asarray(~finite)
    if flat.shape[1] > 1:
        doubtful = doubtful | (ordered[:, -1] - ordered[:, -2] <= 2.0 * close)
    if bins:
        edges = np.rint(ordered[:, -1] * bins) / bins
        is_share = (ordered[:, 0] >= 0.0) & (ordered[:, -1] <= 1.0)
        doubtful = doubtful | (is_share & (np.abs(ordered[:, -1] - edges) <= close) & (edges > 0.0) & (edges < 1.0))
    return [int(number) for number in np.flatnonzero(doubtful)]


def _moved(value: Array, spec: TensorSpec, sway: float, seed: str) -> Array:
    ways = np.frombuffer(hashlib.shake_256(seed.encode()).digest(value.size), np.uint8).astype(np.int64) % 3 - 1
    ways = ways.reshape(value.shape)
    if value.dtype.kind == "f":
        moved: Array = value + (ways * (sway * float(np.abs(value).max(initial=0.0)))).astype(value.dtype)
        return moved
    if spec.scale is None:
        return value
    limits = np.iinfo(value.dtype)
    stepped: Array = np.clip(value.astype(np.int64) + ways, limits.min, limits.max).astype(value.dtype)
    return stepped
