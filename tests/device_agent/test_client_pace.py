# SPDX-License-Identifier: Apache-2.0
"""How an application's end waits for an answer: never long with a processor of its own, and soon awake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.client_pace import Pace, Plan

SECONDS = st.floats(0.0, 10.0)
#: How late the pretended machine wakes a sleeper, and by how much its answers differ.
LATE_S, JITTER_S = 80e-6, 5e-6


def _looked_s(pace):
    sleep_s, until_s = pace.plan
    return max(until_s - sleep_s - (pace.late_s if sleep_s else 0.0), 0.0)


def _ask(pace, answer_s):
    """Wait for one answer as the window does, on a pretended machine; return how long that took, and the looking."""
    sleep_s, until_s = pace.plan
    start_s = 0.0
    if sleep_s:
        pace.woken(LATE_S)
        start_s = sleep_s + LATE_S
        if answer_s <= start_s:
            pace.overslept(start_s)
            return start_s, 0.0
    if answer_s <= until_s:
        pace.answered(answer_s)
        return answer_s, answer_s - start_s
    pace.answered(max(answer_s, until_s) + LATE_S)
    return max(answer_s, until_s) + LATE_S, max(until_s - start_s, 0.0)


def _steady(pace, answer_s, count):
    return [_ask(pace, answer_s + (JITTER_S if number % 2 else -JITTER_S)) for number in range(count)]


@given(events=st.lists(st.tuples(st.sampled_from(["answered", "overslept", "woken"]), SECONDS)))
def test_looking_is_bounded_by_what_waking_late_costs_whatever_was_seen(events):
    pace = Pace()
    for what, seconds in events:
        getattr(pace, what)(seconds)
        assert pace.plan.sleep_s >= 0.0
        assert 50e-6 <= pace.late_s <= 200e-6
        if what != "woken":  # the plan is made when an answer was seen
            assert _looked_s(pace) <= max(4.0 * pace.late_s, pace.plan.look_until_s / 8.0) * (1 + 1e-9)


@pytest.mark.parametrize("answer_s", [20e-6, 80e-6, 150e-6])
def test_an_answer_that_is_due_at_once_is_looked_for_from_the_start(answer_s):
    pace = Pace()
    took = _steady(pace, answer_s, 100)
    assert pace.plan.sleep_s == 0.0
    assert all(seconds <= answer_s + JITTER_S for seconds, _ in took[1:])


@pytest.mark.parametrize("answer_s", [30e-6, 60e-6, 90e-6, 140e-6])
def test_where_timers_are_exact_one_still_looks_for_what_is_due_at_once(answer_s):
    pace = Pace()
    for _ in range(100):
        pace.woken(1e-6)
        pace.answered(answer_s)
        assert pace.plan.sleep_s == 0.0
        assert pace.plan.look_until_s >= answer_s


@pytest.mark.parametrize("answer_s", [0.5e-3, 1e-3, 5e-3, 50e-3, 1.0])
def test_an_answer_that_is_due_later_is_slept_through_but_for_its_last_stretch(answer_s):
    pace = Pace()
    took = _steady(pace, answer_s, 200)[100:]
    assert all(seconds <= answer_s + JITTER_S for seconds, _ in took)
    assert sum(looked for _, looked in took) <= 0.1 * answer_s * len(took)


def test_a_model_that_became_quicker_is_not_slept_over_for_ever():
    pace = Pace()
    _steady(pace, 2e-3, 100)
    took = _steady(pace, 0.6e-3, 300)[-50:]
    assert all(seconds <= 0.6e-3 + JITTER_S for seconds, _ in took)


def test_one_late_answer_does_not_end_the_looking():
    pace = Pace()
    _steady(pace, 100e-6, 100)
    pace.answered(0.5)
    assert pace.plan.sleep_s == 0.0
    assert pace.plan.look_until_s > 100e-6


def test_where_answers_come_unevenly_one_sleeps():
    pace = Pace()
    for number in range(100):
        pace.answered(1e-3 if number % 2 else 4e-3)
    assert pace.plan == Plan(0.0, 0.0)
