# SPDX-License-Identifier: Apache-2.0
"""What a device makes of its clock, of the server's, and of a time that has passed for certain."""

import pytest

from device_agent.core.orders.clock_judgement import BUILT_AT, ahead, behind, believed, next_bound


@pytest.mark.parametrize(
    ("wall", "bound", "judged", "sentence"),
    [
        (BUILT_AT + 10.0, 0.0, BUILT_AT + 10.0, ""),
        (0.0, 0.0, BUILT_AT, "the clock says 1970-01-01 00:00, and it is 2026-11-01 00:00 or later"),
        (BUILT_AT + 5.0, BUILT_AT + 86_000.0, BUILT_AT + 86_000.0, ""),
        (
            BUILT_AT + 5.0,
            BUILT_AT + 200_000.0,
            BUILT_AT + 200_000.0,
            "the clock says 2026-11-01 00:00, and it is 2026-11-03 07:33 or later",
        ),
    ],
)
def test_expiry_is_judged_by_the_later_of_clock_and_bound(wall, bound, judged, sentence):
    assert (believed(wall, bound), behind(wall, bound)) == (judged, sentence)


def test_a_server_without_a_time_says_nothing_of_the_clock():
    assert ahead(9e9, None) == ""
    assert ahead(100.0, 50.0) == ""
    assert ahead(4e5, 1e5) == "the clock says 1970-01-05 15:06, and the server says 1970-01-02 03:46"


@pytest.mark.parametrize(
    ("seen", "bound"),
    [
        ({"wall": 500.0, "server": None, "first_expiry": 900.0}, 500.0),
        ({"wall": 500.0, "server": 300.0, "first_expiry": 900.0}, 300.0),
        ({"wall": 50.0, "server": 800.0, "first_expiry": 900.0}, 100.0),
        ({"wall": 5000.0, "server": None, "first_expiry": 900.0}, 900.0),
    ],
)
def test_the_bound_never_falls_and_no_clock_alone_pushes_it_past_an_expiry(seen, bound):
    assert next_bound(100.0, **seen) == bound
