# SPDX-License-Identifier: Apache-2.0
"""Which waiting request goes first, and which is refused at once."""

from hypothesis import given
from hypothesis import strategies as st

from device_agent.worker.backlog import PATIENCE_S, WAITING_LIMIT, Backlog


def _filled(*requests):
    backlog = Backlog()
    for sender, (model, now_s, deadline_s, cost_s) in enumerate(requests):
        backlog.add(sender, model, now_s=now_s, deadline_s=deadline_s, cost_s=cost_s)
    return backlog


def _order(backlog, blocked=frozenset()):
    order = []
    while (waiting := backlog.take(blocked)) is not None:
        order.append(waiting.sender)
    return order


def test_the_earliest_deadline_goes_first_and_one_without_has_patience_but_not_for_ever():
    backlog = _filled(("a", 10.0, 0.0, 0.1), ("a", 10.0, 10.5, 0.1), ("a", 10.1, 12.0, 0.1), ("a", 10.1, 10.2, 0.1))
    assert 10.0 + PATIENCE_S < 12.0
    assert _order(backlog) == [3, 1, 0, 2]


def test_equal_deadlines_go_in_the_order_of_arrival():
    assert _order(_filled(*[("a", 1.0, 2.0, 0.0)] * 5)) == [0, 1, 2, 3, 4]


def test_requests_for_a_model_that_cannot_run_now_stay():
    backlog = _filled(("slow", 1.0, 2.0, 0.1), ("quick", 1.0, 3.0, 0.1))
    assert backlog.ready({"slow"})
    assert _order(backlog, {"slow"}) == [1]
    assert not backlog.ready({"slow"})
    assert _order(backlog) == [0]


def test_a_deadline_that_the_work_ahead_does_not_leave_room_for_is_refused_with_figures():
    backlog = _filled(("a", 1.0, 1.5, 0.4), ("a", 1.0, 9.0, 5.0))
    assert backlog.refusal(1.0, 2.0, 0.1) is None
    assert backlog.refusal(1.0, 1.5, 0.2) == "600 ms of work are ahead, and the deadline is in 500 ms"
    assert backlog.refusal(1.0, 0.0, 100.0) is None


def test_no_more_than_the_limit_wait():
    backlog = _filled(*[("a", 1.0, 0.0, 0.0)] * WAITING_LIMIT)
    assert backlog.refusal(1.0, 0.0, 0.0) == f"{WAITING_LIMIT} requests wait already"


def test_expired_requests_are_taken_out_and_the_next_deadline_is_told():
    backlog = _filled(("a", 1.0, 2.0, 0.0), ("a", 1.0, 3.0, 0.0), ("a", 1.0, 0.0, 0.0))
    assert backlog.next_deadline_s() == 2.0
    assert [waiting.sender for waiting in backlog.take_expired(2.0)] == [0]
    assert backlog.next_deadline_s() == 3.0
    assert _order(backlog) == [2, 1]
    assert backlog.next_deadline_s() is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 10), st.floats(0, 10), st.floats(0, 1)), max_size=30))
def test_whatever_comes_each_request_is_taken_once_and_in_order(requests):
    backlog = _filled(*requests)
    due = {sender: deadline_s or now_s + PATIENCE_S for sender, (_, now_s, deadline_s, _) in enumerate(requests)}
    order = _order(backlog, {"a"}) + _order(backlog)
    assert sorted(order) == list(range(len(requests)))
    for model in "ab":
        mine = [due[sender] for sender in order if requests[sender][0] == model]
        assert mine == sorted(mine)
