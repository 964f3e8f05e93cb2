# SPDX-License-Identifier: Apache-2.0
"""What is only noted while an answer is given is counted all the same, and found by feedback; here with real models."""

import pytest

from device_agent.core.serving import ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.worker.counts import NOTES
from device_agent.worker.engine import Engine
from device_agent.worker.tally import REMEMBERED_ANSWERS
from edgefleet.contracts.messages import RunningRelease


@pytest.fixture
def refs(tmp_path, agent_bundles):
    """Returns how a plan names the digits' models."""
    made = {}
    for name in ("v1", "v5"):
        bundle = getattr(agent_bundles, name)
        path = tmp_path / f"{name}.bundle"
        path.write_bytes(bundle.data)
        release = RunningRelease(name="digits", version=f"{name[1]}.0.0", bundle_sha256=bundle.sha256)
        made[name] = ModelRef(path=str(path), release=release)
    return made


@pytest.fixture
def engine(refs):
    made = Engine(random=lambda: 0.0, nonce=7)
    _serve(made, primary=refs["v1"])
    return made


def _serve(engine, **planned):
    assert isinstance(engine.serve(ServingPlan(number=1, models=(PlannedModel(**planned),))), Serving)


def _requests(engine):
    return {(window.release.version, window.role): window.requests for window in engine.collect().models}


def _answers(engine, digits_live, count):
    pictures = digits_live[0]
    return [engine.infer([pictures[i % len(pictures)][None]]) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, NOTES - 1, NOTES, NOTES + 1, 2 * NOTES + 3])
def test_every_answer_is_counted_once(engine, digits_live, count):
    replies = _answers(engine, digits_live, count)
    windows = engine.collect().models
    assert [(window.requests, sum(window.latency.counts), sum(window.confidence.counts)) for window in windows] == (
        [(count, count, count)] if count else []
    )
    classes = {top: n for window in windows for top, n in zip(window.classes.bins, window.classes.counts, strict=True)}
    tops = [reply.top_class for reply in replies]
    assert classes == {top: tops.count(top) for top in set(tops)}
    assert engine.collect().models == ()


def test_feedback_finds_the_last_answers_however_they_were_settled(engine, digits_live):
    replies = _answers(engine, digits_live, REMEMBERED_ANSWERS + 2)
    known = [engine.feedback(reply.request_id, "3").status for reply in (replies[1], *replies[2:4], replies[-1])]
    assert known == ["unknown-request", "ok", "ok", "ok"]
    assert engine.feedback(replies[-1].request_id, "3").status == "unknown-request"  # once an answer
    (window,) = engine.collect().models
    assert sum(window.labelled.counts) == 3
    assert window.labelled.actual.count(3) == len(window.labelled.actual)


def test_feedback_after_a_collection_is_counted_in_the_next_one(engine, digits_live):
    (reply,) = _answers(engine, digits_live, 1)
    assert _requests(engine) == {("1.0.0", "active"): 1}
    assert engine.feedback(reply.request_id, str(reply.top_class)).top_class == reply.top_class
    (window,) = engine.collect().models
    assert (window.requests, sum(window.labelled.counts)) == (0, 1)


def test_what_was_noted_before_a_switch_is_told_after_it_and_feedback_finds_its_model(engine, refs, digits_live):
    replies = _answers(engine, digits_live, 3)
    for name in ("v5", "v1", "v5"):
        _serve(engine, primary=refs[name])
    _answers(engine, digits_live, 2)
    assert engine.feedback(replies[0].request_id, "0").status == "ok"
    assert _requests(engine) == {("1.0.0", "active"): 3, ("5.0.0", "active"): 2}
    _serve(engine, primary=refs["v5"])
    _serve(engine, primary=refs["v5"])  # nothing of v1 is needed any more, nor was it by the plan before
    assert engine.feedback(replies[1].request_id, "0").status == "ok"
    (window,) = engine.collect().models
    assert (window.release.version, sum(window.labelled.counts)) == ("1.0.0", 1)


def test_a_place_that_is_still_being_asked_when_the_plan_changes_is_counted(engine, refs, digits_live):
    place = engine._now.places["digits"]
    _serve(engine, primary=refs["v5"])
    engine.infer([digits_live[0][0][None]], place=place)
    assert _requests(engine) == {("1.0.0", "active"): 1}


def test_a_companion_s_answers_are_counted_but_feedback_refers_to_none_of_them(engine, refs, digits_live):
    _serve(engine, primary=refs["v1"], companion=refs["v5"], companion_role="shadow", share=1.0)
    replies = []
    for _ in range(NOTES + 1):
        replies += _answers(engine, digits_live, 1)
        engine.settle()
    assert engine.feedback(0, "3").status == "unknown-request"
    assert engine.feedback(replies[0].request_id, "3").status == "ok"
    assert _requests(engine) == {("1.0.0", "active"): NOTES + 1, ("5.0.0", "shadow"): NOTES + 1}
