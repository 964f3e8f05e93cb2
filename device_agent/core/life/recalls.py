# SPDX-License-Identifier: Apache-2.0
"""Recalls: a signed order forbids what runs, what is tried, or what would be gone back to."""

from device_agent.core.life.decision import Decision, Draft, Situation
from device_agent.core.life.lifecycle import LIVE, PREPARING
from device_agent.core.life.record import DeviceRecord, fresh_progress_of
from device_agent.core.life.release_set import ReleaseSet
from device_agent.core.life.trial import Verdict
from device_agent.core.life.way_back import BACK, allowed, blamed_release, enter_safe_mode, go_back, leave_candidate
from device_agent.core.recall import Recall


def recalled(record: DeviceRecord, situation: Situation, recall: Recall) -> Decision:
    """Keep to what a signed order forbids, from now on and whatever runs."""
    draft = Draft(record, situation)
    draft.set(recall=recall, previous=allowed(record.previous, recall))
    _recall_candidate(draft, recall)
    forbidden = tuple(member for member in draft.record.active if recall.forbids(member.release))
    if forbidden:
        _recall_active(draft, recall, forbidden)
    elif not draft.record.active:
        draft.do("serve")  # the factory model may be forbidden, or allowed again
    return draft.done()


def _recall_candidate(draft: Draft, recall: Recall) -> None:
    reason = next((why for member in draft.record.candidate if (why := recall.forbids(member.release))), "")
    if not reason:
        return
    if draft.status in LIVE:
        leave_candidate(draft, Verdict("fail", "recalled", reason), blamed=(), withdrawn=True)
    elif draft.status in PREPARING:
        draft.tell("update-refused", "recalled", reason, blamed_release(draft.record.trying))
        draft.move("order-withdrawn", candidate=(), progress={})
        draft.do("drop-installation")


def _recall_active(draft: Draft, recall: Recall, forbidden: ReleaseSet) -> None:
    reason = recall.forbids(forbidden[0].release)
    rest = tuple(member for member in draft.record.active if member not in forbidden)
    if draft.status in LIVE:
        draft.tell("update-refused", "recalled", reason, forbidden[0].release)
        draft.set(active=rest)
        if draft.status == "shadow":
            draft.move("shadow-passed", progress=fresh_progress_of(draft.record.trying))
        draft.do("serve", "activate")
    elif draft.status in BACK:
        draft.set(active=rest)
        if rest:
            draft.do("serve")
        else:
            enter_safe_mode(draft, "previous-failed")
    else:
        fault = draft.fault("recalled", reason, forbidden[0].release)
        back = draft.record.previous or rest
        draft.do("drop-installation")
        draft.move("active-failed", active=back, previous=(), candidate=(), progress={}, fault=fault)
        go_back(draft)
