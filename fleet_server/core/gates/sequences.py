# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold at all times at once: one may look as often as one likes, and stop when one likes.

A mean over devices moves as devices answer more, but never to a fresh start: what a device brought along (its own
baseline, its own inputs) stays in it. Such an estimate with variance V is a Brownian motion seen at the information
1/V (the canonical joint distribution of group-sequential analysis; Jennison and Turnbull 1999, chapter 3), and 1/V
stays bounded however long one waits, for the variance between devices does not shrink with time. The boundary for that
motion is the one-sided normal mixture (Howard, Ramdas, McAuliffe and Sekhon 2021, section 3.3), asymptotic in the
number of devices as in Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024).
"""

import math
from statistics import NormalDist

from fleet_server.core.gates.moments import Estimate

_NORMAL = NormalDist()
#: Beyond this the normal tail is nothing that a float could tell from zero.
_FARTHEST_Z = 8.0


def half_width(estimate: Estimate, *, error: float, resolution: float) -> float:
    """Return how far the truth may lie to one side of the estimate, at all times with probability 1 - ``error``.

    ``resolution`` is the difference that matters, in the estimate's unit: the bound is tightest where it is about half
    as wide. Without a variance (no device differs from another, and no sampling noise was given) nothing is known, and
    the answer is infinite.
    """
    if estimate.variance <= 0.0 or not math.isfinite(estimate.variance):
        return math.inf
    information = 1.0 / estimate.variance
    factor = boundary(information, error=error, tightest_at=_decisive_information(error, resolution))
    return for_few_devices(factor / math.sqrt(information), estimate.freedom) * math.sqrt(estimate.variance)


def boundary(information: float, *, error: float, tightest_at: float) -> float:
    """Return what a Brownian motion at ``information`` exceeds with probability ``error`` at any time, ever.

    The closed bound of the one-sided normal mixture, with its scale chosen to be tightest at ``tightest_at``.
    """
    scale = tightest_at / _log_terms(error)
    spread = (information + scale) / scale
    return math.sqrt(2.0 * (information + scale) * math.log(math.sqrt(spread) / (2.0 * error) + 0.5))


def for_few_devices(z: float, freedom: float) -> float:
    """Return the t quantile with the tail of ``z``, for a variance that was itself estimated.

    Cornish and Fisher's expansion (Abramowitz and Stegun 1964, 26.7.5), which is low for very few degrees of freedom:
    below four the answer is infinite.
    """
    if freedom < 4.0:
        return math.inf
    z = min(z, _FARTHEST_Z)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _decisive_information(error: float, resolution: float) -> float:
    """Return the information at which the boundary is about half of ``resolution`` wide."""
    return 4.0 * (_log_terms(error) + 1.0) / resolution**2


def _log_terms(error: float) -> float:
    one_sided = 2.0 * math.log(1.0 / (2.0 * error))
    return one_sided + math.log1p(one_sided)
