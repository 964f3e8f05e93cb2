# SPDX-License-Identifier: Apache-2.0
"""What calibration learns of each tensor: smallest, largest and mean value of each channel (its last axis).

Sums are integers, so that nothing depends on the order of the samples, nor on how they are dealt out to processes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError

Array = npt.NDArray[Any]
#: Rows are reduced in blocks this wide: numpy is slow on many short rows.
_BLOCK = 512
#: A mean is told in units of 2^-24, and the rest of it in units of 2^-62: room for 2^25 samples of up to 2^13 each.
_COARSE = 2.0**24
_FINE = 2.0**38
_LARGEST_MEAN = 2.0**37


class Range(NamedTuple):
    """The smallest and the largest value of one tensor."""

    low: float
    high: float


class ChannelStatistics(NamedTuple):
    """One tensor over some samples: arrays of shape (channels,)."""

    low: Array
    high: Array
    mean: Array

    def scaled(self, factors: Array) -> "ChannelStatistics":
        """Return the statistics of the tensor after each channel is multiplied by a positive factor."""
        return ChannelStatistics(self.low * factors, self.high * factors, self.mean * factors)

    @property
    def range(self) -> Range:
        """The whole tensor's range."""
        return Range(float(self.low.min()), float(self.high.max()))


Statistics = Mapping[str, ChannelStatistics]


class ChannelTally(NamedTuple):
    """The sums behind a tensor's statistics; merging tallies gives the same bits in any order."""

    low: Array
    high: Array
    coarse: Array
    fine: Array
    samples: int

    def merged(self, other: "ChannelTally") -> "ChannelTally":
        """Return the tally of both sets of samples."""
        return ChannelTally(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.coarse + other.coarse,
            self.fine + other.fine,
            self.samples + other.samples,
        )

    def statistics(self) -> ChannelStatistics:
        """Return what the sums say."""
        mean = (self.coarse / _COARSE + self.fine / (_COARSE * _FINE)) / self.samples
        return ChannelStatistics(self.low + 0.0, self.high + 0.0, mean)  # of 0 and -0 either may be the smaller


def tally(values: Array) -> ChannelTally:
    """Return the tally of one tensor after one inference; the last axis counts channels."""
    channels = values.shape[-1] if values.ndim else 1
    rows = values.reshape(-1, channels)
    low, high = _reduced(np.minimum, rows), _reduced(np.maximum, rows)
    means = _reduced(np.add, rows) / len(rows)
    if not max(abs(means.min()), abs(means.max())) <= _LARGEST_MEAN:  # nor is NaN
        means = np.clip(np.nan_to_num(means), -_LARGEST_MEAN, _LARGEST_MEAN)  # its range tells that it is not finite
    units = means * _COARSE
    coarse = np.rint(units)
    fine = np.rint((units - coarse) * _FINE)
    return ChannelTally(low, high, coarse.astype(np.int64), fine.astype(np.int64), 1)


def channel_statistics(values: Array) -> ChannelStatistics:
    """Return the statistics of one tensor after one inference; the last axis counts channels."""
    return tally(values).statistics()


def merge_tallies(first: Mapping[str, ChannelTally], second: Mapping[str, ChannelTally]) -> dict[str, ChannelTally]:
    """Merge tallies by tensor name."""
    merged = dict(first)
    for name, found in second.items():
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


def _reduced(operation: np.ufunc, rows: Array) -> Array:
    """Reduce the first axis, in the order of addition that is the same on every processor; sums are float64."""
    dtype = np.dtype(np.float64) if operation is np.add else rows.dtype
    height, channels = rows.shape
    block = _BLOCK // channels
    if block < 2 or height < 2 * block:
        narrow: Array = operation.reduce(rows, axis=0, dtype=dtype)
        return narrow
    whole = height - height % block
    wide = operation.reduce(rows[:whole].reshape(-1, block * channels), axis=0, dtype=dtype)
    reduced: Array = operation.reduce(wide.reshape(block, channels), axis=0)
    return reduced if whole == height else operation(reduced, operation.reduce(rows[whole:], axis=0, dtype=dtype))
