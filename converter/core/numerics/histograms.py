# SPDX-License-Identifier: Apache-2.0
"""Counts of a tensor's values in fixed bins: integers, so that the order of the samples cannot matter."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.numerics.ranges import Range

Array = npt.NDArray[Any]
BINS = 2048


@dataclass(frozen=True)
class Histogram:
    """How often a tensor's values fell into each of ``BINS`` equal bins between ``low`` and ``high``.

    ``counts`` has shape (BINS,), int64. What lies outside, as rounding may have it, counts in the outermost bin.
    """

    low: float
    high: float
    counts: Array

    @classmethod
    def empty(cls, found: Range) -> "Histogram":
        """Return a histogram without counts over a range that is known."""
        return cls(found.low, found.high, np.zeros(BINS, np.int64))

    def with_values(self, values: Array) -> "Histogram":
        """Count an array's finite values as well."""
        return self.merged(Histogram(self.low, self.high, self._count(values)))

    def merged(self, other: "Histogram") -> "Histogram":
        """Return the counts of both; they must have the same bins."""
        return Histogram(self.low, self.high, self.counts + other.counts)

    @property
    def bin_width(self) -> float:
        """The width of one bin; 0 where all values are the same."""
        return (self.high - self.low) / BINS

    def centres(self) -> Array:
        """Return the middle of each bin, shape (BINS,)."""
        centres: Array = self.low + (np.arange(BINS) + 0.5) * self.bin_width
        return centres

    def _count(self, values: Array) -> Array:
        width = self.bin_width
        if width <= 0.0:
            counts = np.zeros(BINS, np.int64)
            counts[0] = values.size
            return counts
        places = (values.reshape(-1).astype(np.float64) - self.low) / width
        bins = np.clip(places, 0.0, BINS - 1.0).astype(np.int64)
        return np.bincount(bins, minlength=BINS)
