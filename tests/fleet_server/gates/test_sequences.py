# SPDX-License-Identifier: Apache-2.0
"""The gate's bounds hold at all times at once, and one device decides nothing."""

import math
import random
from statistics import NormalDist, fmean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.core.gates.moments import FEWEST_DEVICES, Estimate, Moments
from fleet_server.core.gates.sequences import boundary, for_few_devices, half_width

_SHARES = st.lists(st.floats(-1.0, 1.0), min_size=FEWEST_DEVICES, max_size=60)


@given(values=_SHARES, cut=st.integers(0, 60))
def test_moments_of_parts_add_up_to_those_of_the_whole(values: list[float], cut: int) -> None:
    whole, parts = Moments.of(values, 0.5), Moments.of(values[:cut], 0.2) + Moments.of(values[cut:], 0.3)
    assert (parts.devices, parts.lowest, parts.highest) == (whole.devices, whole.lowest, whole.highest)
    assert (parts.total, parts.squares) == pytest.approx((whole.total, whole.squares))
    assert parts.sampling_variance == pytest.approx(0.5)


@given(values=_SHARES)
def test_a_mean_leaves_the_lowest_and_the_highest_device_out(values: list[float]) -> None:
    found = Moments.of(values).estimate()
    inner = sorted(values)[1:-1]
    winsorised = [inner[0], *inner, inner[-1]]
    expected = variance(winsorised) * (len(values) - 1) / (len(inner) * (len(inner) - 1))
    assert found is not None
    assert found.mean == pytest.approx(fmean(inner), abs=1e-9)
    assert found.variance == pytest.approx(expected, abs=1e-9)
    assert found.freedom == len(inner) - 1


def test_one_broken_device_among_twenty_changes_no_bound_by_more_than_an_ordinary_device() -> None:
    healthy = [0.001 * place for place in range(-10, 10)]
    broken = Moments.of([*healthy[1:], -0.95]).estimate()
    sound = Moments.of([*healthy[1:], -0.010]).estimate()
    assert broken is not None
    assert sound is not None
    assert (broken.mean, broken.variance) == pytest.approx((sound.mean, sound.variance))


def test_few_devices_give_no_estimate() -> None:
    assert Moments.of([0.0] * (FEWEST_DEVICES - 1)).estimate() is None
    assert Moments().estimate() is None


def test_devices_that_all_say_the_same_are_no_certainty() -> None:
    alike = Moments.of([0.0] * 20).estimate()
    sampled = Moments.of([0.0] * 20, sampling_variance=20 * 0.01).estimate()
    assert alike is not None
    assert sampled is not None
    assert half_width(alike, error=0.05, resolution=0.03) == math.inf
    assert sampled.variance == pytest.approx(0.01 / 20)


def test_a_difference_has_the_degrees_of_freedom_of_welch_and_satterthwaite() -> None:
    difference = Estimate(0.9, 0.04, 10.0) - Estimate(0.7, 0.01, 20.0)
    assert difference.mean == pytest.approx(0.2)
    assert difference.variance == pytest.approx(0.05)
    assert difference.freedom == pytest.approx(0.05**2 / (0.04**2 / 10 + 0.01**2 / 20))


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(5, 4.0321), (9, 3.2498), (19, 2.8609), (99, 2.6264), (1e9, 2.5758)],
)
def test_few_devices_widen_a_bound_as_students_table_says(freedom: float, quantile: float) -> None:
    assert for_few_devices(NormalDist().inv_cdf(0.995), freedom) == pytest.approx(quantile, rel=0.01)


def test_three_degrees_of_freedom_bound_nothing() -> None:
    assert for_few_devices(2.0, 3.0) == math.inf


@given(
    information=st.floats(1.0, 1e9),
    more=st.floats(1.01, 100.0),
    error=st.floats(1e-6, 0.4),
)
def test_more_information_never_widens_a_bound(information: float, more: float, error: float) -> None:
    wide = half_width(Estimate(0.0, 1.0 / information, 1e6), error=error, resolution=0.03)
    narrow = half_width(Estimate(0.0, 1.0 / (information * more), 1e6), error=error, resolution=0.03)
    assert 0.0 < narrow < wide


@given(information=st.floats(1.0, 1e9), error=st.floats(1e-6, 0.2))
def test_a_bound_for_all_times_is_wider_than_one_for_a_single_look(information: float, error: float) -> None:
    once = NormalDist().inv_cdf(1.0 - error) * math.sqrt(information)
    assert boundary(information, error=error, tightest_at=information) > once


def test_looking_all_the_time_crosses_no_oftener_than_was_allowed() -> None:
    """2,000 motions, each looked at 400 times over four orders of magnitude of information: seeded, so repeatable."""
    draw = random.Random(20261124)
    steps = [1.0 * 1.0235**step for step in range(400)]
    crossed = 0
    for _ in range(2_000):
        motion = before = 0.0
        for now in steps:
            motion += draw.gauss(0.0, math.sqrt(now - before))
            before = now
            if motion > boundary(now, error=0.05, tightest_at=100.0):
                crossed += 1
                break
    assert 0.02 * 2_000 < crossed <= 0.05 * 2_000  # valid, and not so wide that it proves nothing


def test_a_look_every_time_as_at_a_single_look_would_cross_far_oftener() -> None:
    draw = random.Random(20261124)
    crossed = 0
    for _ in range(500):
        motion = before = 0.0
        for now in (1.0 * 1.0235**step for step in range(400)):
            motion += draw.gauss(0.0, math.sqrt(now - before))
            before = now
            if motion > NormalDist().inv_cdf(0.95) * math.sqrt(now):
                crossed += 1
                break
    assert crossed > 0.25 * 500
