# SPDX-License-Identifier: Apache-2.0
"""The decisions: transition table, verdicts, orders, recovery, ledger, schedule."""

import itertools
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.core.evidence.ledger import add, confusion, merge, sparse
from device_agent.core.life import lifecycle
from device_agent.core.life.lifecycle import LIVE, RESUME, STATUSES, TRANSITIONS, LifecycleFaultError, resume, step
from device_agent.core.life.record import (
    DeviceRecord,
    Progress,
    Software,
    fresh_progress,
    lifted,
    quarantined,
    reported,
)
from device_agent.core.life.recovery import newer_commit, recover
from device_agent.core.life.release_set import Member, set_of
from device_agent.core.life.trial import activated, counted, elapsed, judge_death, judge_shadow, judge_trial
from device_agent.core.orders.release_orders import Order, TargetFile, Wanted, decide
from device_agent.core.recall import Recall
from device_agent.core.schedule import Backoff, jittered_s
from device_agent.core.timers import Timers
from edgefleet.contracts.messages import ModelWindow, RunningRelease
from edgefleet.contracts.policy import DevicePolicy, ShadowRule, TrialRule

V1 = RunningRelease(name="digits", version="1.0.0", bundle_sha256="1" * 64)
V2 = RunningRelease(name="digits", version="2.0.0", bundle_sha256="2" * 64)
B1 = RunningRelease(name="sounds", version="1.0.0", bundle_sha256="b" * 64)
HERE = Software(agent="1.0.0", runtime="ai-edge-litert 2.3.0")
TRIGGERS = get_args(lifecycle.Trigger)


def members(*releases):
    return set_of(Member(release=release) for release in releases)


def order(counter, *releases, **fields):
    wanted = tuple(Wanted(r, TargetFile("x", r.bundle_sha256, 1)) for r in releases)
    return Order(counter, wanted, **fields)


statuses = st.sampled_from(STATUSES)
progresses = st.builds(
    Progress,
    attempts_left=st.integers(0, 5),
    unexplained_left=st.integers(0, 5),
    requests=st.integers(0, 500),
    failed=st.integers(0, 3),
    non_finite=st.integers(0, 3),
    compared=st.integers(0, 100),
    elapsed_s=st.floats(0.0, 1e6),
)


def test_every_state_is_resumed_somewhere_can_be_reached_and_can_be_left():
    assert set(RESUME) == set(STATUSES)
    reached = {"idle"}
    while len(grown := reached | {after for (before, _), after in TRANSITIONS.items() if before in reached}) > len(
        reached
    ):
        reached = grown
    assert reached == set(STATUSES)
    assert {before for before, _ in TRANSITIONS} == set(STATUSES)


def test_every_trigger_is_known_to_some_state():
    assert {trigger for _, trigger in TRANSITIONS} == set(TRIGGERS)


@given(statuses, st.sampled_from(TRIGGERS))
def test_a_trigger_that_a_state_does_not_know_is_a_fault(status, trigger):
    if (status, trigger) in TRANSITIONS:
        assert step(status, trigger) == TRANSITIONS[status, trigger]
        return
    with pytest.raises(LifecycleFaultError) as raised:
        step(status, trigger)
    assert raised.value.message == f"the state '{status}' does not know the trigger '{trigger}'"


@given(st.text())
def test_an_unknown_persisted_state_means_rollback(text):
    assert resume(text) == RESUME.get(text, "rolling-back")


@given(st.lists(st.sampled_from([*TRIGGERS, "power-cut"]), max_size=60))
def test_whatever_happens_only_a_trial_leads_to_commit_and_only_a_proof_ends_a_rollback(happenings):
    status, path = "idle", ["idle"]
    for happening in happenings:
        if happening == "power-cut":
            status = resume(status)
        elif (status, happening) in TRANSITIONS:
            status = step(status, happening)
        path.append(status)
    for before, after in itertools.pairwise(path):
        if after == "committed":
            assert before in ("trial", "committed")
        if before == "verify-previous":
            assert after in ("verify-previous", "idle", "safe-mode")
        if before == "rolling-back":
            assert after in ("rolling-back", "verify-previous", "safe-mode")
        if after == "trial" and before != "trial":
            assert before in ("shadow", "admission")


@pytest.mark.parametrize(
    ("status", "active", "candidate", "wanted", "action"),
    [
        ("idle", [V1], [], [], "nothing"),
        ("idle", [V1], [], [V1], "nothing"),
        ("idle", [V1], [], [V2], "install"),
        ("idle", [], [], [V1], "install"),
        ("idle", [V1], [], [V1, B1], "install"),
        ("idle", [V1, B1], [], [V1], "install"),
        ("idle", [V1, B1], [], [B1, V1], "nothing"),
        ("safe-mode", [], [], [V1], "install"),
        ("downloading", [V1], [V2], [V2], "nothing"),
        ("downloading", [V1], [V2], [V2, B1], "withdraw"),
        ("downloading", [V1], [V2], [], "withdraw"),
        ("admission", [V1], [V2], [V1], "withdraw"),
        ("trial", [V1], [V2], [V2], "nothing"),
        ("trial", [V1], [V2], [V1], "withdraw"),
        ("trial", [], [V2], [], "nothing"),
        ("rolling-back", [V1], [], [V2], "nothing"),
    ],
)
def test_an_order_is_followed_only_where_the_device_is_free_to(status, active, candidate, wanted, action):
    record = DeviceRecord(status=status, active=members(*active), candidate=members(*candidate))
    assert decide(status, record, order(7, *wanted), HERE) == action


def test_an_order_for_a_quarantined_bundle_is_refused_until_other_software_or_a_signed_order_comes():
    record = quarantined(DeviceRecord(active=members(V1)), V2.bundle_sha256, HERE, "crash")
    assert decide("idle", record, order(7, V2), HERE) == "refuse-quarantined"
    assert decide("idle", record, order(7, V2, B1), HERE) == "refuse-quarantined"
    assert decide("idle", record, order(7, B1), HERE) == "install"
    assert decide("idle", record, order(7, V2), Software(agent="1.0.1", runtime=HERE.runtime)) == "install"
    assert decide("idle", lifted(record, (V2.bundle_sha256,)), order(7, V2), HERE) == "install"
    assert decide("idle", lifted(record, (V1.bundle_sha256,)), order(7, V2), HERE) == "refuse-quarantined"


def test_a_quarantine_from_before_software_was_noted_holds_for_all():
    record = quarantined(DeviceRecord(), V2.bundle_sha256, Software(), "")
    assert record.quarantines(V2.bundle_sha256, HERE)


@pytest.mark.parametrize(
    ("recall", "reason"),
    [
        (Recall(), ""),
        (Recall(releases=("2" * 64,)), "digits 2.0.0 is recalled"),
        (Recall(releases=("1" * 64,)), ""),
        (Recall(minimum={"digits": "2.0.0"}), ""),
        (Recall(minimum={"digits": "2.0.1"}), "digits 2.0.0 is below the floor 2.0.1"),
        (Recall(minimum={"digits": "10.0.0"}), "digits 2.0.0 is below the floor 10.0.0"),
        (Recall(minimum={"sounds": "10.0.0"}), ""),
        (Recall(stopped=True), "a signed order stops every model"),
    ],
)
def test_a_recall_forbids_what_it_names_and_what_is_below_its_floor(recall, reason):
    assert recall.forbids(V2) == reason
    record = DeviceRecord(active=members(V1), recall=recall)
    assert decide("idle", record, order(7, V2), HERE) == ("refuse-recalled" if reason else "install")


RULE = TrialRule(requests=100, minimum_s=60.0, limit_s=600.0, crash_limit=1, unexplained_limit=2)


@pytest.mark.parametrize(
    ("progress", "kind", "cause"),
    [
        (Progress(requests=100, elapsed_s=60.0), "pass", ""),
        (Progress(requests=99, elapsed_s=60.0), "wait", ""),
        (Progress(requests=100, elapsed_s=59.0), "wait", ""),
        (Progress(requests=99, elapsed_s=600.0), "fail", "trial-timeout"),
        (Progress(requests=500, elapsed_s=60.0, non_finite=1), "fail", "non-finite"),
        (Progress(requests=500, elapsed_s=60.0, failed=1), "fail", "failed-requests"),
    ],
)
def test_a_trial_ends_by_count_and_time_and_at_once_by_faults(progress, kind, cause):
    verdict = judge_trial(progress, RULE)
    assert (verdict.kind, verdict.cause) == (kind, cause)


@given(progresses)
def test_a_shadow_passes_by_samples_or_time_unless_it_is_faulty(progress):
    verdict = judge_shadow(progress, ShadowRule(samples=50, limit_s=3600.0), RULE)
    if progress.non_finite or progress.failed:
        assert verdict.kind == "fail"
    else:
        enough = progress.compared >= 50 or progress.elapsed_s >= 3600.0
        assert verdict.kind == ("pass" if enough else "wait")


@given(st.lists(st.sampled_from(["crash", "unexplained", "clean"]), max_size=30))
def test_crashes_and_unexplained_deaths_are_counted_apart_and_clean_ends_never(deaths):
    progress = fresh_progress(DevicePolicy(trial=RULE))
    crashes = unexplained = 0
    for death in deaths:
        progress, verdict = judge_death(activated(progress), death)
        crashes += death == "crash"
        unexplained += death == "unexplained"
        failed = crashes > RULE.crash_limit or unexplained > RULE.unexplained_limit
        assert (verdict.kind == "fail") == failed
        if failed:
            return


def test_progress_adds_up_windows_and_policy_time():
    progress = counted(
        Progress(), ModelWindow(release=V2, role="trial", requests=5, failed=1, non_finite=2, compared=3)
    )
    progress = elapsed(elapsed(progress, 2.5), -1.0)
    assert progress == Progress(requests=5, failed=1, non_finite=2, compared=3, elapsed_s=2.5)


@given(status=statuses, clean=st.booleans(), rebooted=st.booleans(), progress=progresses)
def test_a_restart_resumes_counts_and_never_invents_a_candidate(status, clean, rebooted, progress):
    before = DeviceRecord(
        status=status,
        active=members(V1),
        candidate=members(V2),
        progress={"digits": progress},
        boot_id="a",
        clean_stop=clean,
    )
    recovery = recover(before, boot_id="b" if rebooted else "a", now=9.0, software=HERE)
    assert recovery.death == ("clean" if clean or rebooted else "unexplained")
    assert recovery.record.clean_stop is False
    assert recovery.record.status == recovery.status
    if status not in LIVE:
        assert recovery.status == RESUME[status]
    elif recovery.death == "clean":
        assert recovery.status == status
        assert recovery.record.progress["digits"].attempts_left == progress.attempts_left + 1
    else:
        exhausted = progress.unexplained_left == 0
        assert recovery.status == ("rolling-back" if exhausted else status)
        assert recovery.record.quarantines(V2.bundle_sha256, HERE) == exhausted
        assert (recovery.record.candidate == ()) == exhausted


def test_a_record_of_an_unknown_state_rolls_back_to_the_active_release():
    record = DeviceRecord(status="hyperspace", active=members(V1), candidate=members(V2))
    recovery = recover(record, boot_id="b", now=9.0, software=HERE)
    assert recovery.status == "rolling-back"
    assert recovery.record.active == members(V1)
    assert recovery.record.candidate == ()
    assert recovery.record.fault.cause == "unknown-state"
    assert recovery.record.fault.detail == "the persisted state was 'hyperspace'"


def test_a_live_state_without_a_candidate_rolls_back():
    recovery = recover(DeviceRecord(status="trial", active=members(V1)), boot_id="b", now=9.0, software=HERE)
    assert (recovery.status, recovery.record.fault.detail) == ("rolling-back", "the state 'trial' has no candidate")


def test_what_the_slots_know_of_a_later_commit_wins_over_an_older_save():
    old = DeviceRecord(status="trial", counter=4, order_counter=4, active=members(V1), candidate=members(V2))
    assert newer_commit(old, members(V1), 3) == old
    assert newer_commit(old, (), 0) == old
    for counter in (4, 5):
        newer = newer_commit(old, members(V2), counter)
        assert (newer.status, newer.active, newer.previous, newer.candidate) == (
            "idle",
            members(V2),
            members(V1),
            (),
        )
        assert (newer.counter, newer.order_counter) == (counter, counter)


def test_quarantine_and_reports_are_bounded_and_keep_the_newest():
    record = DeviceRecord()
    for number in range(1100):
        record = reported(quarantined(record, f"{number:064x}", HERE, "crash"), str(number))
    assert len(record.quarantine) == 1000
    assert record.quarantines(f"{1099:064x}", HERE)
    assert record.reported == tuple(str(number) for number in range(1068, 1100))


counts = st.dictionaries(st.integers(0, 111), st.integers(1, 1000), max_size=10)
pairs = st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(1, 1000), max_size=10)


@given(counts, counts, pairs, pairs)
def test_merged_windows_count_what_their_parts_counted(a, b, c, d):
    def window(bins, cells):
        columns = {"latency": sparse(Counter(bins)), "labelled": confusion(Counter(cells))}
        return ModelWindow(release=V1, role="active", requests=sum(bins.values()), **columns)

    (both,) = merge([window(a, c), window(b, d)])
    assert both == window(dict(Counter(a) + Counter(b)), dict(Counter(c) + Counter(d)))
    assert add(both, ModelWindow(release=V1, role="active")) == both


def test_windows_of_other_models_and_roles_stay_apart():
    windows = [ModelWindow(release=release, role=role) for release in (V1, V2) for role in ("active", "trial")]
    assert merge([*windows, *windows]) == tuple(windows)


@given(st.integers(0, 100), st.floats(0.0, 1.0, exclude_max=True))
def test_delays_grow_to_their_cap_and_are_spread_over_the_upper_half(failures, random):
    backoff = Backoff(first_s=1.0, cap_s=60.0)
    full = min(2.0 ** max(failures - 1, 0), 60.0)
    assert full / 2 <= backoff.delay_s(failures, random) <= full
    assert 270.0 <= jittered_s(300.0, random) <= 330.0


def test_a_timer_becomes_due_once():
    timers = Timers()
    timers.set("poll", 5.0)
    timers.sooner("poll", 7.0)
    assert not timers.take("poll", 4.9)
    assert timers.wait_s(4.0, 10.0) == 1.0
    assert timers.take("poll", 5.0)
    assert not timers.take("poll", 6.0)
    assert timers.wait_s(4.0, 10.0) == 10.0
