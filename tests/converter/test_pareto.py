# SPDX-License-Identifier: Apache-2.0
"""The front: nothing on it is beaten, and everything off it is."""

from hypothesis import given
from hypothesis import strategies as st

from converter.core.search.pareto import on_front


def test_what_is_larger_and_worse_is_off_the_front() -> None:
    assert on_front([(10, 0.1), (12, 0.2), (12, 0.05), (8, 0.3)]) == (True, False, True, True)


def test_of_equal_points_the_first_stays() -> None:
    assert on_front([(10, 0.1), (10, 0.1), (10, 0.2)]) == (True, False, False)


def test_no_points_have_no_front() -> None:
    assert on_front([]) == ()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_every_point_is_matched_by_one_on_the_front_which_nobody_beats(points: list[tuple[int, int, int]]) -> None:
    front = [point for point, kept in zip(points, on_front(points), strict=True) if kept]
    assert len(set(front)) == len(front)
    for point in points:
        assert any(all(theirs <= ours for theirs, ours in zip(best, point, strict=True)) for best in front)
    for best in front:
        assert not any(p != best and all(a <= b for a, b in zip(p, best, strict=True)) for p in points)
