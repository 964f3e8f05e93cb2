# SPDX-License-Identifier: Apache-2.0
"""Metrics against values worked out by hand, and the paired interval against simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.runtimes.metrics import (
    accuracy,
    area_under_roc,
    average_precision,
    coefficient_of_determination,
    macro_f1,
    mean_squared_error,
    overlap,
    paired_accuracy_interval,
    percentile,
    rank_correlation,
    ranks,
    recall_per_class,
)


def _pairs(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * (both + lost) + [False] * (gained + neither)
    second = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return np.array(first), np.array(second)


def test_accuracy_and_recall_by_hand() -> None:
    predicted = np.array([0, 0, 1, 1, 2])
    actual = np.array([0, 1, 1, 1, 0])
    assert accuracy(predicted, actual) == 0.6
    assert recall_per_class(predicted, actual, 4) == (0.5, 2 / 3, 0.0, 0.0)
    assert math.isnan(accuracy(np.array([]), np.array([])))


def test_mean_squared_error_does_not_wrap_small_integers() -> None:
    assert mean_squared_error(np.array([-128], np.int8), np.array([127], np.int8)) == 255.0**2


def test_the_paired_interval_by_hand() -> None:
    # 100 samples, 3 lost and 1 gained: centre (1.5 - 3.5) / 102, half 1.959964 * sqrt(5 - 4 / 102) / 102.
    interval = paired_accuracy_interval(*_pairs(90, 3, 1, 6))
    half = 1.9599640 * math.sqrt(5.0 - 4.0 / 102.0) / 102.0
    assert interval.difference == -0.02
    assert interval.low == pytest.approx(-2.0 / 102.0 - half, abs=1e-8)
    assert interval.high == pytest.approx(-2.0 / 102.0 + half, abs=1e-8)
    assert (interval.level, interval.method) == (0.95, "Agresti-Min 2005, paired")


@given(cells=st.tuples(*[st.integers(0, 200)] * 4).filter(any))
def test_the_paired_interval_is_the_mirror_of_the_swapped_one(cells: tuple[int, int, int, int]) -> None:
    first, second = _pairs(*cells)
    there, back = paired_accuracy_interval(first, second), paired_accuracy_interval(second, first)
    assert there.low == pytest.approx(-back.high)
    assert there.low < there.high
    assert there.difference == pytest.approx(second.mean() - first.mean())


@given(cells=st.tuples(*[st.integers(0, 200)] * 4).filter(any))
def test_more_confidence_needs_a_wider_interval(cells: tuple[int, int, int, int]) -> None:
    first, second = _pairs(*cells)
    narrow, wide = (paired_accuracy_interval(first, second, level=level) for level in (0.90, 0.99))
    assert wide.low < narrow.low
    assert narrow.high < wide.high


@pytest.mark.parametrize(("samples", "lost", "gained"), [(50, 0.05, 0.05), (100, 0.06, 0.02), (500, 0.03, 0.025)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(samples: int, lost: float, gained: float) -> None:
    random = np.random.default_rng(20261122)
    truth = gained - lost
    covered = 0
    runs = 2000
    for _ in range(runs):
        draws = random.random(samples)
        first, second = draws >= gained, (draws < gained) | (draws >= gained + lost)
        interval = paired_accuracy_interval(first, second)
        covered += interval.low <= truth <= interval.high
    # 2000 runs estimate a coverage of 95 % with a standard error of 0.5 points.
    assert 0.935 <= covered / runs <= 0.995


@given(values=st.lists(st.integers(-100, 100), min_size=1), sixty_fourths=st.integers(1, 64))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[int], sixty_fourths: int) -> None:
    share = sixty_fourths / 64  # exact in binary
    found = percentile(values, share)

    def reaches(limit: float) -> bool:
        return sum(value <= limit for value in values) >= share * len(values)

    assert found in values
    assert reaches(found)
    assert not any(reaches(value) for value in values if value < found)


def test_percentiles_by_hand() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([7.0], 0.99) == 7.0


SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda values: np.array(values, np.float64))


@given(positive=SCORES, negative=SCORES)
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(positive: np.ndarray, negative: np.ndarray) -> None:
    above = (positive[:, np.newaxis] > negative).sum() + 0.5 * (positive[:, np.newaxis] == negative).sum()
    assert area_under_roc(positive, negative) == pytest.approx(above / (len(positive) * len(negative)), abs=1e-12)


def test_a_score_of_nan_is_on_the_wrong_side_of_the_curve() -> None:
    assert area_under_roc(np.array([np.nan]), np.array([0.0])) == 0.0
    assert area_under_roc(np.array([0.0]), np.array([np.nan])) == 0.0
    assert math.isnan(area_under_roc(np.array([]), np.array([1.0])))


@given(values=SCORES)
def test_a_rank_is_the_number_of_smaller_values_plus_half_of_the_equal_ones(values: np.ndarray) -> None:
    smaller = (values[:, np.newaxis] > values).sum(axis=1)
    equal = (values[:, np.newaxis] == values).sum(axis=1)
    assert ranks(values).tolist() == (smaller + (equal + 1) / 2).tolist()


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation(np.array([1.0, 10.0, 100.0]), np.array([[2.0], [3.0], [4.0]])) == pytest.approx(1.0)
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5.
    tied = rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_macro_f1_leaves_out_classes_that_nobody_speaks_of() -> None:
    # Class 0: hit 1 of 2 samples, 1 answer; class 1: hit 1, 2 answers; class 2: neither.
    assert macro_f1(np.array([0, 1, 1]), np.array([0, 0, 1]), 3) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert macro_f1(np.array([-1]), np.array([0]), 2) == 0.0


def test_the_coefficient_of_determination_by_hand() -> None:
    wanted = np.array([[1.0, 0.0], [3.0, 0.0]])
    assert coefficient_of_determination(wanted, wanted) == 1.0
    assert coefficient_of_determination(np.array([[2.0, 0.0], [2.0, 0.0]]), wanted) == 0.0
    assert math.isnan(coefficient_of_determination(wanted, np.zeros((2, 2))))


def test_overlap_by_hand() -> None:
    boxes = np.array([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
    assert overlap(np.array([0.0, 0.0, 2.0, 2.0]), boxes).tolist() == [1.0, 1 / 7, 0.0, 0.0]


def test_average_precision_by_hand() -> None:
    box = [0.0, 0.0, 2.0, 2.0]
    other = [5.0, 5.0, 7.0, 7.0]
    wanted = [np.array([box, other])]
    # By falling score: right, wrong, right: precision 1, 1/2, 2/3; its envelope at both recalls: 1 and 2/3.
    rows = np.array([[*box, 0.9], [20, 20, 21, 21, 0.8], [*other, 0.7]])
    assert average_precision([rows], wanted) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([rows[::-1]], wanted) == pytest.approx((1 + 2 / 3) / 2)


def test_a_box_is_found_once() -> None:
    box = [0.0, 0.0, 2.0, 2.0]
    twice = np.array([[*box, 0.9], [*box, 0.8]])
    assert average_precision([twice], [np.array([box])]) == 1.0  # the second is wrong, but behind full recall
    assert average_precision([twice[:0]], [np.array([box])]) == 0.0
    assert math.isnan(average_precision([twice], [np.zeros((0, 4))]))


def test_a_detection_in_another_image_finds_nothing() -> None:
    box = [0.0, 0.0, 2.0, 2.0]
    found = [np.zeros((0, 5)), np.array([[*box, 0.9]])]
    assert average_precision(found, [np.array([box]), np.zeros((0, 4))]) == 0.0


def _slow_average_precision(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The same figure by the letter of its definition: match one by one, then the best precision from each hit on."""
    order = sorted((-row[4], image, place) for image, rows in enumerate(found) for place, row in enumerate(rows))
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, image, place in order:
        free = [number for number in range(len(wanted[image])) if (image, number) not in taken]
        overlaps = [float(overlap(found[image][place][:4], wanted[image][number][np.newaxis])[0]) for number in free]
        hits.append(bool(free) and max(overlaps) >= 0.5)
        if hits[-1]:
            taken.add((image, free[overlaps.index(max(overlaps))]))
    precisions = [sum(hits[: end + 1]) / (end + 1) for end in range(len(hits))]
    return sum(max(precisions[end:]) for end, hit in enumerate(hits) if hit) / sum(map(len, wanted))


@given(seed=st.integers(0, 10**6), images=st.integers(1, 3))
def test_average_precision_is_what_its_definition_says(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)

    def boxes(fewest: int) -> np.ndarray:
        corner = random.integers(0, 5, (random.integers(fewest, 5), 2)).astype(np.float64)
        return np.concatenate([corner, corner + random.integers(1, 4, corner.shape)], axis=1)

    wanted = [boxes(1) for _ in range(images)]
    found = [np.concatenate([b, random.integers(0, 4, (len(b), 1)) / 4], axis=1) for b in (boxes(0) for _ in wanted)]
    assert average_precision(found, wanted) == pytest.approx(_slow_average_precision(found, wanted), abs=1e-12)
