# SPDX-License-Identifier: Apache-2.0
"""Figures of many devices, one number a device, as sums that merge: a fleet's evidence is as long as its cohorts.

The device is the unit: whoever answers a thousand times as much has one vote like all others. The lowest and the
highest of the devices are left out of every mean (a trimmed mean; Tukey and McLaughlin 1963), so that one broken
device decides nothing, and its variance is that of the winsorised sample.
"""

from collections.abc import Iterable
from dataclasses import dataclass

#: Fewer devices than this have no variance that could be estimated without their two extremes.
FEWEST_DEVICES = 5


@dataclass(frozen=True)
class Estimate:
    """A mean over devices: ``variance`` is that of the mean, ``freedom`` its degrees of freedom."""

    mean: float
    variance: float
    freedom: float

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Return the difference of two independent estimates (degrees of freedom: Welch and Satterthwaite)."""
        variance = self.variance + other.variance
        parts = self.variance**2 / self.freedom + other.variance**2 / other.freedom
        freedom = variance**2 / parts if parts > 0.0 else self.freedom + other.freedom
        return Estimate(self.mean - other.mean, variance, freedom)


@dataclass(frozen=True)
class Moments:
    """Sums over devices, each with one number; ``lowest`` and ``highest`` hold the two extremes of either side.

    ``sampling_variance`` sums, over the devices, the variance that a device's number has by the count of its samples
    alone: where all devices say the same, that is not certainty.
    """

    devices: int = 0
    total: float = 0.0
    squares: float = 0.0
    sampling_variance: float = 0.0
    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Iterable[float], sampling_variance: float = 0.0) -> "Moments":
        """Return the moments of one number a device; ``sampling_variance`` is summed over them."""
        found = sorted(values)
        return cls(
            devices=len(found),
            total=sum(found),
            squares=sum(value * value for value in found),
            sampling_variance=sampling_variance,
            lowest=tuple(found[:2]),
            highest=tuple(found[-2:]),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both together; no device may be in both."""
        return Moments(
            devices=self.devices + other.devices,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            sampling_variance=self.sampling_variance + other.sampling_variance,
            lowest=tuple(sorted(self.lowest + other.lowest)[:2]),
            highest=tuple(sorted(self.highest + other.highest)[-2:]),
        )

    def estimate(self) -> Estimate | None:
        """Return the trimmed mean, or None where too few devices have been heard."""
        if self.devices < FEWEST_DEVICES:
            return None
        (low, next_low), (next_high, high) = self.lowest, self.highest
        kept = self.devices - 2
        mean = (self.total - low - high) / kept
        winsorised = self.total - low - high + next_low + next_high
        squares = self.squares - low**2 - high**2 + next_low**2 + next_high**2
        spread = max(0.0, squares - winsorised**2 / self.devices)  # (n - 1) times the winsorised variance
        by_devices = spread / (kept * (kept - 1))
        by_samples = self.sampling_variance / self.devices**2
        return Estimate(mean, max(by_devices, by_samples), float(kept - 1))
