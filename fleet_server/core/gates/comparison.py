# SPDX-License-Identifier: Apache-2.0
"""One figure in one cohort: is the release worse than allowed, surely no worse than allowed, or not known yet?

Three answers, each with the interval that it rests on. *Harmful*: the harm is larger than what is tolerated, with a
certainty that holds over all figures and cohorts and all looks. *Harmless*: the harm is smaller than the drop that
must not pass; all of them must say so, therefore each may err as often as the whole may. Between the two it is
undecided, and it says how much more evidence would decide.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fleet_server.core.gates.moments import Estimate
from fleet_server.core.gates.sequences import half_width

Answer = Literal["harmful", "harmless", "undecided"]


@dataclass(frozen=True)
class Limits:
    """What a policy says of one figure: harms, as shares (0.03 is three points).

    ``drop`` must not pass; up to ``tolerated`` is no reason to halt. ``halt_error`` is the probability with which a
    release that does no harm may be halted by this figure in this cohort, ``pass_error`` that with which one that does
    may pass it.
    """

    drop: float
    tolerated: float
    halt_error: float
    pass_error: float


@dataclass(frozen=True)
class Comparison:
    """The answer, the harm as estimated, and its bounds: ``lower`` decides about halting, ``upper`` about passing.

    ``more`` is how many times as much evidence (devices, or time while devices still answer) would make the bound as
    narrow as the distance that it must keep; 1.0: none is needed; infinite: no amount can be named.
    """

    answer: Answer
    harm: float
    lower: float
    upper: float
    more: float


def compare(harm: Estimate | None, limits: Limits) -> Comparison:
    """Judge an estimate of harm (positive: worse than the release before)."""
    if harm is None:
        return Comparison("undecided", 0.0, -math.inf, math.inf, math.inf)
    resolution = limits.drop - limits.tolerated
    below = half_width(harm, error=limits.halt_error, resolution=resolution)
    above = half_width(harm, error=limits.pass_error, resolution=resolution)
    lower, upper = harm.mean - below, harm.mean + above
    if lower > limits.tolerated:
        return Comparison("harmful", harm.mean, lower, upper, 1.0)
    if upper < limits.drop:
        return Comparison("harmless", harm.mean, lower, upper, 1.0)
    return Comparison("undecided", harm.mean, lower, upper, _more(harm.mean, below, above, limits))


def _more(harm: float, below: float, above: float, limits: Limits) -> float:
    """Return the factor of evidence at which the nearer of the two answers could be given, were the estimate true.

    A bound narrows with the root of the evidence.
    """
    needed = [
        (width / room) ** 2
        for width, room in ((below, harm - limits.tolerated), (above, limits.drop - harm))
        if room > 0.0 and math.isfinite(width)
    ]
    return max(1.0, min(needed)) if needed else math.inf
