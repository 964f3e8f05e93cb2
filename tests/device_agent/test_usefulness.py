# SPDX-License-Identifier: Apache-2.0
"""A committed model is of no use once it fails most of its last requests, at any pace, and not before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.core.evidence.usefulness import LAST_REQUESTS, LEAST_FAILED, Usefulness
from edgefleet.contracts.messages import ModelWindow, RunningRelease

RELEASE = RunningRelease(name="digits", version="1.0.0", bundle_sha256="a" * 64)


def window(good, non_finite=0, failed=0, role="active"):
    return ModelWindow(
        release=RELEASE, role=role, requests=good + non_finite + failed, non_finite=non_finite, failed=failed
    )


@pytest.mark.parametrize(
    ("windows", "found"),
    [
        ([window(0, LEAST_FAILED - 1)], None),
        ([window(0, LEAST_FAILED)], ("a" * 64, "non-finite", "50 of the last 50 requests had no answer")),
        ([window(0, 10, 40)], ("a" * 64, "failed-requests", "50 of the last 50 requests had no answer")),
        ([window(49, 50)], ("a" * 64, "non-finite", "50 of the last 99 requests had no answer")),
        ([window(50, 50)], None),
        ([window(10**6, 10**5)], None),
        ([window(0, 10**6, role="shadow")], None),
        ([window(0, 1)] * 60, ("a" * 64, "non-finite", "50 of the last 50 requests had no answer")),
        (
            [window(10**6)] + [window(0, 1)] * 250,
            ("a" * 64, "non-finite", "200 of the last 200 requests had no answer"),
        ),
    ],
)
def test_a_verdict_over_the_last_requests(windows, found):
    usefulness = Usefulness()
    verdicts = [usefulness.look([each]) for each in windows]
    assert next((verdict for verdict in verdicts if verdict), None) == found


@given(
    st.lists(
        st.builds(window, st.integers(1, 400), st.integers(0, 400)).filter(lambda w: 2 * w.non_finite <= w.requests)
    )
)
def test_a_model_that_answers_at_least_half_of_each_window_is_never_useless(windows):
    usefulness = Usefulness()
    assert [usefulness.look([each]) for each in windows] == [None] * len(windows)


@given(st.lists(st.integers(0, 300)))
def test_whatever_was_before_enough_failures_in_a_row_are_seen(good):
    usefulness = Usefulness()
    for count in good:
        usefulness.look([window(count)])
    assert any(usefulness.look([window(0, 1)]) for _ in range(2 * LAST_REQUESTS))
