# SPDX-License-Identifier: Apache-2.0
"""Does a model keep memory with each inference? A pure figure over resident memory, measured at even distances."""

from collections.abc import Sequence
from itertools import pairwise

#: A leak grows in each part of the measurement, and by this much at least; what grows once is a cache.
LEAST_BYTES = 1 << 20


def leaked_bytes(rss_bytes: Sequence[int]) -> int:
    """Return how much memory was kept if it grew from each measurement to the next, else 0."""
    if len(rss_bytes) < 3 or any(later <= earlier for earlier, later in pairwise(rss_bytes)):
        return 0
    grown = rss_bytes[-1] - rss_bytes[0]
    return grown if grown >= LEAST_BYTES else 0
