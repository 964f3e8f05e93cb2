# SPDX-License-Identifier: Apache-2.0
"""Statistics and ranges: the same bits in any order, and each method does what it is named for."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converter.core.numerics.histograms import BINS, Histogram
from converter.core.numerics.range_search import choose_range
from converter.core.numerics.ranges import (
    ChannelStatistics,
    Range,
    channel_statistics,
    merge_tallies,
    tally,
    tensor_ranges,
)
from edgefleet.contracts.errors import SampleError

VALUES = st.floats(-1e6, 1e6, width=32)
ROWS = st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=8)
SHAPES = st.sampled_from([(1, 5), (700, 3), (1024, 1), (130, 8), (3, 600), (7,)])


def merged(parts: list[dict[str, Any]]) -> ChannelStatistics:
    total: dict[str, Any] = {}
    for part in parts:
        total = merge_tallies(total, part)
    found: ChannelStatistics = total["t"].statistics()
    return found


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms())
@example([[0.0, 1.0, 1.0], [-0.0, 1.0, 1.0]], random.Random(1))
def test_statistics_are_the_same_bits_in_any_order(rows: list[list[float]], chance: Any) -> None:
    parts = [{"t": tally(np.array(row, dtype=np.float32))} for row in rows]
    shuffled = list(parts)
    chance.shuffle(shuffled)
    half = len(parts) // 2
    by_halves = merge_tallies(_all(parts[half:]), _all(parts[:half]))["t"].statistics()
    for one, other, third in zip(merged(parts), merged(shuffled), by_halves, strict=True):
        assert one.tobytes() == other.tobytes() == third.tobytes()


def _all(parts: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        total = merge_tallies(total, part)
    return total


@settings(max_examples=50, deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=VALUES)))
def test_statistics_are_those_of_each_channel(values: np.ndarray) -> None:
    found = channel_statistics(values)
    rows = values.reshape(-1, values.shape[-1])
    assert (found.low == rows.min(axis=0)).all()
    assert (found.high == rows.max(axis=0)).all()
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-12, atol=1e-9)


def test_small_means_are_told_as_well_as_large_ones() -> None:
    for magnitude in (1e-9, 1.0, 1e9):
        mean = merged([{"t": tally(np.full((4, 2), magnitude * n, np.float32))} for n in (1, 2, 3)]).mean
        assert mean == pytest.approx(2.0 * magnitude, rel=1e-6)


def test_a_tensor_that_is_not_finite_is_named() -> None:
    with pytest.raises(SampleError) as caught:
        tensor_ranges({"fine": channel_statistics(np.zeros(2)), "scores": channel_statistics(np.array([1.0, np.nan]))})
    assert caught.value.message == "on the calibration samples the tensor 'scores' is not finite (from nan to nan)"


def histogram(values: np.ndarray) -> Histogram:
    return Histogram.empty(Range(float(values.min()), float(values.max()))).with_values(values)


@settings(max_examples=30, deadline=None)
@given(st.lists(arrays(np.float32, 20, elements=st.floats(-4, 9, width=32)), min_size=1, max_size=6), st.randoms())
def test_counts_are_those_of_numpy_in_any_order(parts: list[np.ndarray], chance: Any) -> None:
    counted = Histogram.empty(Range(-4.0, 9.0))
    for part in parts:
        counted = counted.with_values(part)
    chance.shuffle(parts)
    again = Histogram.empty(Range(-4.0, 9.0))
    for part in parts:
        again = again.merged(Histogram.empty(Range(-4.0, 9.0)).with_values(part))
    assert (counted.counts == again.counts).all()
    expected = np.bincount(
        np.minimum(((np.concatenate(parts).astype(float) + 4.0) / (13.0 / BINS)).astype(int), BINS - 1), minlength=BINS
    )
    assert (counted.counts == expected).all()


def test_values_outside_count_in_the_outermost_bins() -> None:
    counts = Histogram.empty(Range(0.0, 1.0)).with_values(np.array([-3.0, 0.5, 7.0, 1.0])).counts
    assert (counts[0], counts[BINS // 2], counts[-1], counts.sum()) == (1, 1, 2, 4)


def test_a_tensor_that_never_changes_keeps_its_range() -> None:
    still = Histogram.empty(Range(2.0, 2.0)).with_values(np.full(9, 2.0))
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert choose_range(still, method, percentile=99.9) == Range(0.0, 2.0)


def test_the_percentile_leaves_out_its_share_at_each_end() -> None:
    values = np.linspace(-1.0, 1.0, 100_001)
    found = choose_range(histogram(values), "percentile", percentile=99.0)
    assert found.low == pytest.approx(-0.98, abs=2.0 / BINS)
    assert found.high == pytest.approx(0.98, abs=2.0 / BINS)
    assert choose_range(histogram(values), "percentile", percentile=100.0) == Range(-1.0, 1.0)


def test_zero_stays_inside_whatever_the_method() -> None:
    values = np.linspace(5.0, 6.0, 1000)
    for method in ("minmax", "percentile", "mse", "entropy"):
        found = choose_range(histogram(values), method, percentile=90.0)
        assert found.low == 0.0
        assert found.high > 0.0


def exact_error(values: np.ndarray, found: Range) -> float:
    scale = (found.high - found.low) / 255
    lowest = np.rint(found.low / scale)
    return float(((np.clip(np.rint(values / scale), lowest, lowest + 255) * scale - values) ** 2).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_least_squared_error_is_less_than_that_of_all_values_with_outliers(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=200_000)
    values[:3] = (40.0, -30.0, 35.0)
    whole = choose_range(histogram(values), "minmax", percentile=100.0)
    found = choose_range(histogram(values), "mse", percentile=100.0)
    assert exact_error(values, found) < 0.75 * exact_error(values, whole)
    for share in (0.8, 1.25):  # a neighbour is no better
        other = Range(found.low * share, min(found.high * share, whole.high))
        assert exact_error(values, found) <= 1.05 * exact_error(values, other)


def test_without_outliers_the_least_squared_error_keeps_nearly_all() -> None:
    values = np.random.default_rng(1).uniform(-1.0, 1.0, 100_000)
    found = choose_range(histogram(values), "mse", percentile=100.0)
    assert found.low == pytest.approx(-1.0, abs=0.06)
    assert found.high == pytest.approx(1.0, abs=0.06)


def test_entropy_cuts_a_long_thin_tail() -> None:
    values = np.abs(np.random.default_rng(2).normal(size=200_000))
    values[:2] = 50.0
    found = choose_range(histogram(values), "entropy", percentile=100.0)
    assert found.low == 0.0
    assert 2.0 < found.high < 30.0


def test_sixteen_bits_need_no_cut() -> None:
    values = np.random.default_rng(2).normal(size=100_000)
    whole = choose_range(histogram(values), "minmax", percentile=100.0)
    for method in ("mse", "entropy"):
        assert choose_range(histogram(values), method, percentile=100.0, bits=16) == whole


def test_entropy_does_not_mind_how_many_values_a_relu_made_zero() -> None:
    values = np.abs(np.random.default_rng(2).normal(size=100_000))
    few = choose_range(histogram(values), "entropy", percentile=100.0)
    many = choose_range(histogram(np.concatenate([values, np.zeros(900_000)])), "entropy", percentile=100.0)
    assert many.high == pytest.approx(few.high, rel=0.1)
