# SPDX-License-Identifier: Apache-2.0
"""What calibration learns of each tensor: smallest, largest and mean value of each channel (its last axis)."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError

Array = npt.NDArray[Any]


class Range(NamedTuple):
    """The smallest and the largest value of one tensor."""

    low: float
    high: float


class ChannelStatistics(NamedTuple):
    """One tensor over some samples: arrays of shape (channels,); ``total`` sums each channel's means over samples."""

    low: Array
    high: Array
    total: Array
    samples: int

    def merged(self, other: "ChannelStatistics") -> "ChannelStatistics":
        """Return the statistics of both sets of samples."""
        return ChannelStatistics(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.total + other.total,
            self.samples + other.samples,
        )

    def scaled(self, factors: Array) -> "ChannelStatistics":
        """Return the statistics of the tensor after each channel is multiplied by a positive factor."""
        return ChannelStatistics(self.low * factors, self.high * factors, self.total * factors, self.samples)

    @property
    def mean(self) -> Array:
        """Each channel's mean."""
        mean: Array = self.total / self.samples
        return mean

    @property
    def range(self) -> Range:
        """The whole tensor's range."""
        return Range(float(self.low.min()), float(self.high.max()))


Statistics = Mapping[str, ChannelStatistics]


def channel_statistics(values: Array) -> ChannelStatistics:
    """Return the statistics of one tensor after one inference; the last axis counts channels."""
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    return ChannelStatistics(rows.min(axis=0), rows.max(axis=0), rows.mean(axis=0, dtype=np.float64), 1)


def merge_statistics(parts: Iterable[Statistics]) -> dict[str, ChannelStatistics]:
    """Merge statistics by tensor name. Ranges do not depend on the order; sums do in their last bits."""
    merged: dict[str, ChannelStatistics] = {}
    for part in parts:
        for name, found in part.items():
            merged[name] = merged[name].merged(found) if name in merged else found
    return merged


def tensor_ranges(statistics: Statistics) -> dict[str, Range]:
    """Return each tensor's range.

    Raises:
        SampleError: one is not finite, so that no scale can be made from it; the message names the first.
    """
    ranges = {name: found.range for name, found in sorted(statistics.items())}
    for name, found in ranges.items():
        if not np.isfinite(found).all():
            raise SampleError(
                f"on the calibration samples the tensor '{name}' is not finite (from {found.low} to {found.high})",
                hint='leave out the samples that cause it, correct the model, or keep it float: precision = "float32"',
            )
    return ranges
