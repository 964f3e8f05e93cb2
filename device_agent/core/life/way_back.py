# SPDX-License-Identifier: Apache-2.0
"""Every way back: from a candidate, from a good set, and into safe mode; and what a state may take at most."""

from typing import Literal

from device_agent.core.life.decision import Decision, Draft, Situation
from device_agent.core.life.lifecycle import DEADLINES_S, LIVE, PREPARING, LifecycleFaultError
from device_agent.core.life.record import DeviceRecord, Fault
from device_agent.core.life.release_set import Member, ReleaseSet
from device_agent.core.life.trial import Verdict
from device_agent.core.recall import Recall
from device_agent.core.serving import SLOT_DAMAGE
from edgefleet.contracts.messages import DeviceStatus, RunningRelease

SUPERSEDED = Verdict("fail", "ordered", "the director ordered another release")
#: On the way back, and not proved yet.
BACK: frozenset[DeviceStatus] = frozenset({"rolling-back", "verify-previous"})


def superseded(record: DeviceRecord, situation: Situation) -> Decision:
    """Leave a candidate because another set was ordered: a way back without quarantine."""
    draft = Draft(record, situation._replace(first_sign=None))
    leave_candidate(draft, SUPERSEDED, blamed=(), withdrawn=True)
    return draft.done()


def refused(record: DeviceRecord, situation: Situation, member: Member, cause: str) -> Decision:
    """Never try a bundle again that admission refused."""
    draft = Draft(record, situation)
    draft.quarantine((member,), cause, "")
    return draft.done()


def broken(record: DeviceRecord, situation: Situation, error: LifecycleFaultError) -> Decision:
    """Answer a trigger that the state did not know: go back."""
    draft = Draft(record, situation)
    fault = draft.fault(error.code, error.message, blamed_release(record.trying))
    draft.set(status="rolling-back", candidate=(), progress={}, fault=fault, changed_at=situation.now)
    draft.do("drop-installation")
    go_back(draft)
    return draft.done()


def deadline_s(record: DeviceRecord, *, time_scale: float = 1.0) -> float | None:
    """Return the longest stay in the record's state, in seconds; None for a state of rest.

    ``time_scale`` divides what the policy says; downloads and checks take the time that they take.
    """
    own = DEADLINES_S.get(record.status)  # type: ignore[call-overload]  # any text may be persisted
    if own is None or record.status not in LIVE:
        return own  # type: ignore[no-any-return]
    rules = [member.policy for member in record.trying]
    limits = [rule.shadow.limit_s if record.status == "shadow" else rule.trial.limit_s for rule in rules]
    return float(own + max(limits, default=0.0) / time_scale)


def deadline_passed(record: DeviceRecord, situation: Situation) -> Decision:
    """Leave a state that took longer than it may."""
    draft = Draft(record, situation)
    status = draft.status
    detail = f"the state '{status}' took longer than it may"
    if status in LIVE:
        leave_candidate(draft, Verdict("fail", "deadline", detail), blamed=())
    elif status in PREPARING:
        draft.tell("update-refused", "deadline", detail, blamed_release(record.trying))
        draft.move("deadline-passed", candidate=(), progress={})
        draft.do("drop-installation")
    elif status in BACK:
        enter_safe_mode(draft, "deadline-passed")
    else:
        draft.move("deadline-passed")
        draft.do("keep-slots")
    return draft.done()


def leave_candidate(draft: Draft, verdict: Verdict, *, blamed: ReleaseSet, withdrawn: bool = False) -> None:
    """Go back from the candidate; the blamed members are quarantined, unless only their slots were damaged."""
    release = blamed_release(blamed or draft.record.trying)
    if verdict.cause not in SLOT_DAMAGE:
        draft.quarantine(blamed, verdict.cause, verdict.detail)
    fault = draft.fault(verdict.cause, verdict.detail, release)
    trigger: Literal["order-withdrawn", "candidate-failed"] = "order-withdrawn" if withdrawn else "candidate-failed"
    draft.move(trigger, candidate=(), progress={}, fault=fault)
    go_back(draft)


def leave_active(draft: Draft, cause: str, detail: str, blamed: ReleaseSet) -> None:
    """Go back from the good set to the one before; without one, members that are not blamed go on."""
    record = draft.record
    if cause not in SLOT_DAMAGE:
        draft.quarantine(blamed, cause, detail)
    fault = draft.fault(cause, detail, blamed_release(blamed))
    draft.do("drop-installation")
    rest = tuple(member for member in record.active if member not in blamed)
    back = allowed(record.previous, record.recall) or rest
    draft.move("active-failed", active=back, previous=(), candidate=(), progress={}, fault=fault)
    go_back(draft)


def go_back(draft: Draft) -> None:
    """Let the good set answer again; without one there is only safe mode."""
    draft.do("cancel-activation", "serve")
    if not draft.record.active:
        draft.tell_of_fault("rolled-back", "there is no release to go back to")
        enter_safe_mode(draft, "nothing-to-serve")


def enter_safe_mode(draft: Draft, trigger: Literal["nothing-to-serve", "previous-failed", "deadline-passed"]) -> None:
    """Both ways are closed: the factory model answers, or none."""
    fault = draft.record.fault or Fault(cause="no-good-model")
    what = "the factory model answers" if factory_for(draft.record, draft.situation.factory) else "no model answers"
    draft.tell("safe-mode", fault.cause, what, fault.release)
    draft.move(trigger, active=(), previous=())
    draft.do("serve")


def previous_failed(draft: Draft, cause: str, detail: str, blamed: ReleaseSet) -> None:
    """What was gone back to is no good either."""
    if cause not in SLOT_DAMAGE:
        draft.quarantine(blamed, cause, detail)
    enter_safe_mode(draft, "previous-failed")


def factory_for(record: DeviceRecord, factory: Member | None) -> Member | None:
    """Return the factory model where a recall does not forbid it."""
    return None if factory is None or record.recall.forbids(factory.release) else factory


def allowed(members: ReleaseSet, recall: Recall) -> ReleaseSet:
    """Return a set that no recall touches, or nothing."""
    return () if any(recall.forbids(member.release) for member in members) else members


def blamed_release(members: ReleaseSet) -> RunningRelease | None:
    """Return the release that a fault is told of: the first of those blamed."""
    return members[0].release if members else None
