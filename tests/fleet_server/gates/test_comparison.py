# SPDX-License-Identifier: Apache-2.0
"""Harmful, harmless or undecided: each answer only where the interval allows it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.core.gates.comparison import Answer, Limits, compare
from fleet_server.core.gates.moments import Estimate

_LIMITS = Limits(drop=0.03, tolerated=0.01, halt_error=0.005, pass_error=0.05)
_CERTAIN = 1e-7  # a variance of the mean: its root is a thirtieth of a point


@pytest.mark.parametrize(
    ("harm", "variance", "answer"),
    [
        (0.00, _CERTAIN, "harmless"),
        (0.02, _CERTAIN, "harmful"),  # between: known to do harm, and known to be below the drop: harm is said first
        (0.03, _CERTAIN, "harmful"),
        (-0.10, _CERTAIN, "harmless"),
        (0.01, _CERTAIN, "harmless"),  # what is tolerated is tolerated
        (0.03, 1e-4, "undecided"),
        (0.00, 1e-4, "undecided"),
        (0.50, 1e-4, "harmful"),
    ],
)
def test_an_answer_needs_its_bound(harm: float, variance: float, answer: Answer) -> None:
    assert compare(Estimate(harm, variance, 500.0), _LIMITS).answer == answer


def test_without_an_estimate_nothing_is_decided() -> None:
    found = compare(None, _LIMITS)
    assert (found.answer, found.lower, found.upper, found.more) == ("undecided", -math.inf, math.inf, math.inf)


@given(
    harm=st.floats(-1.0, 1.0),
    variance=st.floats(1e-9, 1.0),
    freedom=st.floats(4.0, 1e6),
)
def test_no_answer_goes_beyond_its_interval(harm: float, variance: float, freedom: float) -> None:
    found = compare(Estimate(harm, variance, freedom), _LIMITS)
    assert found.lower < harm < found.upper
    assert (found.answer == "harmful") == (found.lower > _LIMITS.tolerated)
    assert found.answer != "harmless" or found.upper < _LIMITS.drop
    assert (found.more == 1.0) or found.answer == "undecided"


@given(harm=st.floats(-0.02, 0.05), variance=st.floats(1e-6, 1e-3))
def test_what_is_said_to_be_needed_is_enough_but_for_the_price_of_looking(harm: float, variance: float) -> None:
    found = compare(Estimate(harm, variance, 1e6), _LIMITS)
    if found.answer == "undecided" and math.isfinite(found.more):
        # the boundary itself grows slowly with the information; a quarter more covers it here
        later = compare(Estimate(harm, variance / (found.more * 1.25), 1e6), _LIMITS)
        assert later.answer != "undecided"
