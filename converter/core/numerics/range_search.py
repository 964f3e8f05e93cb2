# SPDX-License-Identifier: Apache-2.0
"""Which range an activation gets: what lies outside is clamped, and what lies inside is told the finer.

* *percentile*: the range that leaves out the same share of values at each end.
* *mse*: the range with the least mean squared error of quantized values.
* *entropy*: the range whose quantized distribution loses the least information, by Kullback and Leibler's divergence
  (Migacz, "8-bit Inference with TensorRT", GTC 2017), with both ends free.

Zero always lies inside, as a quantized tensor must tell it exactly. Candidates are shrunk ranges; their losses come
from counts by additions and logarithms that give the same bits on every processor, and the first of equals wins.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.numerics.histograms import BINS, Histogram
from converter.core.numerics.ranges import Range
from converter.core.recipe import RangeMethod
from edgefleet.runtimes.elementary import logarithm, total

Array = npt.NDArray[Any]
#: Shares of the whole range that are tried, from all of it down.
_SHARES = tuple(number / 40.0 for number in range(40, 7, -1))
_STEPS = {8: 255, 16: 65535}


def choose_range(found: Histogram, method: RangeMethod, *, percentile: float, bits: int = 8) -> Range:
    """Return the range of a tensor whose values are counted in ``found``, for activations of 8 or 16 ``bits``."""
    whole = Range(min(found.low, 0.0), max(found.high, 0.0))
    if method == "minmax" or found.bin_width <= 0.0 or not found.counts.any():
        return whole
    if method == "percentile":
        return _by_percentile(found, whole, percentile)
    steps = _STEPS[bits]
    loss = _squared_error if method == "mse" else _divergence
    return _least(whole, lambda candidate: loss(found, candidate, steps))


def _by_percentile(found: Histogram, whole: Range, percentile: float) -> Range:
    """Leave out whole bins, as long as no more than the share beyond ``percentile`` lies in them, at each end."""
    total = int(found.counts.sum())
    allowed = int(total * (100.0 - percentile) / 100.0)
    below = int(np.searchsorted(np.cumsum(found.counts), allowed, side="right"))
    above = int(np.searchsorted(np.cumsum(found.counts[::-1]), allowed, side="right"))
    low = found.low + below * found.bin_width
    high = found.high - above * found.bin_width
    return Range(max(whole.low, min(low, 0.0)), min(whole.high, max(high, 0.0)))


def _least(whole: Range, loss: Callable[[Range], float]) -> Range:
    """Shrink both ends together, then the lower, then the upper one; keep what loses least."""
    best = _first_least([Range(whole.low * share, whole.high * share) for share in _SHARES], loss)
    if whole.low < 0.0 < whole.high:
        best = _first_least([best, *(Range(whole.low * share, best.high) for share in _SHARES)], loss)
        best = _first_least([best, *(Range(best.low, whole.high * share) for share in _SHARES)], loss)
    return best


def _first_least(candidates: Iterable[Range], loss: Callable[[Range], float]) -> Range:
    return min(candidates, key=lambda candidate: float(f"{loss(candidate):.8e}"))


def _squared_error(found: Histogram, candidate: Range, steps: int) -> float:
    """Return the sum of squared differences between values (at their bins' centres) and what is told of them."""
    centres = found.centres()
    scale = (candidate.high - candidate.low) / steps
    lowest = np.rint(candidate.low / scale)
    told = np.clip(np.rint(centres / scale), lowest, lowest + steps) * scale
    missed = told - centres
    return total(found.counts * (missed * missed))


def _divergence(found: Histogram, candidate: Range, steps: int) -> float:
    """Return the divergence of the quantized distribution from the one clamped to the candidate."""
    centres = found.centres()
    inside = (centres >= candidate.low) & (centres <= candidate.high)
    if not inside.any():
        return np.inf
    first, last = int(np.argmax(inside)), BINS - int(np.argmax(inside[::-1]))
    counts = _without_zeros(found)
    kept = counts[first:last].astype(np.float64)
    clamped = kept.copy()
    clamped[0] += counts[:first].sum()
    clamped[-1] += counts[last:].sum()
    return _kullback_leibler(clamped, _told(kept, steps))


def _without_zeros(found: Histogram) -> Array:
    """Return the counts without the spike at zero that a ReLU makes: zero is told exactly in any range."""
    counts = found.counts.copy()
    zero = int(np.clip(-found.low / found.bin_width, 0, BINS - 1))
    around = [counts[place] for place in (zero - 1, zero + 1) if 0 <= place < BINS]
    counts[zero] = min(counts[zero], max(around))
    return counts


def _told(kept: Array, steps: int) -> Array:
    """Spread the counts of each quantization step evenly over its bins that are not empty."""
    step_of = np.arange(len(kept)) * min(steps + 1, len(kept)) // len(kept)
    filled = (kept > 0).astype(np.float64)
    sums, places = np.bincount(step_of, kept), np.bincount(step_of, filled)
    told: Array = filled * (sums / np.maximum(places, 1.0))[step_of]
    return told


def _kullback_leibler(actual: Array, told: Array) -> float:
    """Return the divergence in nats; what is told to be impossible costs as much as one part in a million."""
    p, q = actual / actual.sum(), told / max(told.sum(), 1.0)
    seen = p > 0.0
    return total(p[seen] * logarithm(p[seen] / np.maximum(q[seen], 1e-6)))
