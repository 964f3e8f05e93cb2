# SPDX-License-Identifier: Apache-2.0
"""Activation ranges: global minimum and maximum of each tensor, whatever the order of the samples."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from edgefleet.contracts.errors import SampleError


class Range(NamedTuple):
    """The smallest and the largest value seen in one tensor."""

    low: float
    high: float

    def merged(self, other: "Range") -> "Range":
        """Return the range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


Ranges = Mapping[str, Range]


def merge_ranges(parts: Iterable[Ranges]) -> dict[str, Range]:
    """Merge ranges by tensor name: associative, commutative and idempotent, so order does not matter."""
    merged: dict[str, Range] = {}
    for part in parts:
        for name, found in part.items():
            merged[name] = merged[name].merged(found) if name in merged else found
    return merged


def check_finite(ranges: Ranges) -> None:
    """Refuse ranges with NaN or infinity: no scale can be made from them.

    Raises:
        SampleError: it names the first such tensor.
    """
    for name, found in sorted(ranges.items()):
        if not np.isfinite(found).all():
            raise SampleError(
                f"on the calibration samples the tensor '{name}' is not finite (from {found.low} to {found.high})",
                hint='leave out the samples that cause it, correct the model, or keep it float: precision = "float32"',
            )
