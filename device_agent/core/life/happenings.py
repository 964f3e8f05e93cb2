# SPDX-License-Identifier: Apache-2.0
"""The life of a set of releases on a device, from its admission to its commit: one pure function a happening.

Each takes the record and the situation and returns a :class:`~device_agent.core.life.decision.Decision`. The states are
those of :mod:`device_agent.core.life.lifecycle`; the verdicts over what was counted are in
:mod:`device_agent.core.life.trial`, the ways back in :mod:`device_agent.core.life.way_back`.
"""

from collections.abc import Iterable
from typing import Literal

from device_agent.core.evidence.labels import UnpairedLabel
from device_agent.core.evidence.pairs import PairedWindow, Side, add_sides, binned, faded
from device_agent.core.life.decision import Decision, Draft, Situation
from device_agent.core.life.lifecycle import LIVE
from device_agent.core.life.record import DeviceRecord, Progress, fresh_progress_of, member_of
from device_agent.core.life.release_set import Member, ReleaseSet
from device_agent.core.life.trial import (
    Death,
    Verdict,
    activated,
    counted,
    elapsed,
    grown,
    judge_death,
    judge_shadow,
    judge_soft,
    judge_trial,
    labelled_late,
    paired,
)
from device_agent.core.life.way_back import (
    BACK,
    allowed,
    blamed_release,
    factory_for,
    go_back,
    leave_active,
    leave_candidate,
    previous_failed,
)
from device_agent.core.serving import SLOT_DAMAGE
from edgefleet.contracts.messages import ModelWindow, RunningRelease

#: A baseline follows its model by halving what is older than so many answers.
BASELINE_COUNT = 8192

# ------------------------------------------------------------------ begin and go on


def resumed(record: DeviceRecord, situation: Situation) -> Decision:
    """Go on after a restart, from the record that recovery made."""
    draft = Draft(record, situation)
    if draft.status == "rolling-back":
        fault = record.fault
        if fault is not None and fault.release is not None:
            draft.tell("quarantined", fault.cause, fault.detail, fault.release)
        go_back(draft)
    else:
        draft.do("serve")
    if draft.status in LIVE:
        draft.do("activate")
    return draft.done()


def admitted(record: DeviceRecord, situation: Situation) -> Decision:
    """Begin the shadow of an admitted candidate; where nothing runs beside it, its trial."""
    draft = Draft(record, situation)
    progress = fresh_progress_of(record.trying)
    if _has_predecessors(record):
        _tell_of_each(draft, "shadow-started", "admission-passed")
        draft.move("admission-passed", progress=progress)
    else:
        _tell_of_each(draft, "trial-started", "first-release")
        draft.move("admission-passed-first", progress=progress)
    draft.do("activate")
    return draft.done()


def activation(record: DeviceRecord, situation: Situation) -> Decision:
    """Take an attempt off and let the candidate listen or answer; held off, try again later."""
    draft = Draft(record, situation)
    if situation.held:
        draft.do("activate-later")
        return draft.done()
    draft.set(progress={name: activated(progress) for name, progress in record.progress.items()})
    draft.do("serve-candidate")
    return draft.done()


def not_activated(record: DeviceRecord, situation: Situation) -> Decision:
    """Give the attempt back: it could not be written down, so nothing was activated."""
    draft = Draft(record, situation)
    draft.set(progress={name: _given_back(progress) for name, progress in record.progress.items()})
    draft.do("activate-later")
    return draft.done()


def collected(
    record: DeviceRecord,
    situation: Situation,
    windows: Iterable[ModelWindow],
    policy_seconds: float,
    *,
    pairs: Iterable[PairedWindow] = (),
    unpaired: tuple[UnpairedLabel, ...] = (),
    rss_bytes: int = 0,
) -> Decision:
    """Count what the candidate did since the last time, and judge it; without one, learn how the good set answers."""
    draft = Draft(record, situation)
    if draft.status not in LIVE:
        draft.set(baseline=_learned(record, windows))
        return draft.done()
    if not situation.candidate_live:
        return draft.done()
    progress = {name: elapsed(known, policy_seconds) for name, known in record.progress.items()}
    for window in windows:
        member = member_of(record.trying, window.release.bundle_sha256)
        if member is not None and window.role == draft.status and member.release.name in progress:
            progress[member.release.name] = counted(progress[member.release.name], window)
    for counted_pairs in pairs:
        member = member_of(record.trying, counted_pairs.bundle_sha256)
        if member is not None and member.release.name in progress:
            progress[member.release.name] = paired(progress[member.release.name], counted_pairs.pairs)
    progress = {name: labelled_late(known, unpaired) for name, known in progress.items()}
    draft.set(progress={name: grown(known, rss_bytes) for name, known in progress.items()})
    _judge(draft)
    return draft.done()


def _learned(record: DeviceRecord, windows: Iterable[ModelWindow]) -> dict[str, Side]:
    """Return how each member of the good set answers, with more windows on it."""
    known = {member.sha256: record.baseline.get(member.sha256, Side()) for member in record.active}
    for window in windows:
        sha256 = window.release.bundle_sha256
        if sha256 in known and window.role == "active":
            more = Side(classes=binned(window.classes), confidence=window.confidence, latency=window.latency)
            known[sha256] = faded(add_sides(known[sha256], more), BASELINE_COUNT)
    return {sha256: side for sha256, side in known.items() if side.count}


def _judge(draft: Draft) -> None:
    in_shadow = draft.status == "shadow"
    verdicts = [(member, _looked_at(draft, member, in_shadow=in_shadow)) for member in draft.record.trying]
    failed = next(((member, verdict) for member, verdict in verdicts if verdict.kind == "fail"), None)
    if failed is not None:
        leave_candidate(draft, failed[1], blamed=(failed[0],))
    elif any(verdict.kind == "wait" for _, verdict in verdicts):
        return
    elif in_shadow:
        _begin_trial(draft)
    else:
        _commit(draft)


def _looked_at(draft: Draft, member: Member, *, in_shadow: bool) -> Verdict:
    """Return the verdict over one member: what it did itself, and beside the model before it."""
    name, verdict = member.release.name, _verdict(draft.record, member, in_shadow=in_shadow)
    if verdict.kind == "fail" or name not in draft.record.progress:
        return verdict
    before = next((known.sha256 for known in draft.record.active if known.release.name == name), "")
    baseline = draft.record.baseline.get(before, Side())
    last = verdict.kind == "pass"
    progress, soft = judge_soft(draft.record.progress[name], member.policy.soft_rule, baseline, last=last)
    draft.set(progress=draft.record.progress | {name: progress})
    if soft.kind == "alert":
        draft.tell("input-changed", soft.cause, soft.detail, member.release)
    return soft if soft.kind == "fail" else verdict


def _verdict(record: DeviceRecord, member: Member, *, in_shadow: bool) -> Verdict:
    progress = record.progress.get(member.release.name, Progress())
    if not in_shadow:
        return judge_trial(progress, member.policy.trial)
    if all(known.release.name != member.release.name for known in record.active):
        return Verdict("pass")  # of this name nothing runs that it could be compared with
    return judge_shadow(progress, member.policy.shadow, member.policy.trial)


def _begin_trial(draft: Draft) -> None:
    if draft.situation.held:
        return
    _tell_of_each(draft, "trial-started", "shadow-passed")
    draft.move("shadow-passed", progress=fresh_progress_of(draft.record.trying))
    draft.do("activate")


def _commit(draft: Draft) -> None:
    record = draft.record
    draft.mark_good(record.candidate)
    _tell_of_each(draft, "committed", "trial-passed")
    previous = record.active or record.previous
    tried = {member.sha256: record.progress.get(member.release.name, Progress()) for member in record.trying}
    baseline = record.baseline | {sha256: progress.pairs.candidate for sha256, progress in tried.items()}
    draft.set(baseline={sha256: side for sha256, side in baseline.items() if member_of(record.candidate, sha256)})
    draft.move("trial-passed", active=record.candidate, previous=previous, candidate=(), progress={}, fault=None)
    draft.move("settled")
    draft.do("serve", "keep-slots")


def settled(record: DeviceRecord, situation: Situation) -> Decision:
    """Finish a commit that a power cut interrupted."""
    draft = Draft(record, situation)
    if draft.status == "committed":
        draft.move("settled")
        draft.do("keep-slots")
    return draft.done()


# ------------------------------------------------------------------ the worker's reports


def serving(record: DeviceRecord, situation: Situation) -> Decision:
    """The plan is in force: a way back has to be proved now."""
    draft = Draft(record, situation)
    if draft.status == "rolling-back":
        draft.tell_of_fault("rolled-back")
        draft.move("previous-serving")
        draft.do("verify")
    elif draft.status == "verify-previous":  # the worker that was asked before has died
        draft.do("verify")
    elif draft.status == "committed":
        return settled(record, situation)
    return draft.done()


def proved(record: DeviceRecord, situation: Situation, detail: str) -> Decision:
    """Fresh inferences of every member of the good set met their parity vectors."""
    draft = Draft(record, situation)
    if draft.status == "verify-previous":
        first = record.active[0].release if record.active else None
        draft.tell_of_fault("rollback-verified", detail, first)
        draft.move("previous-verified", fault=None)
        draft.do("keep-slots")
    return draft.done()


def not_proved(record: DeviceRecord, situation: Situation, sha256: str, cause: str, detail: str) -> Decision:
    """A member of the good set failed its verification after a way back."""
    draft = Draft(record, situation)
    if draft.status == "verify-previous":
        previous_failed(draft, cause, detail, _members(record.active, sha256))
    return draft.done()


def load_failed(record: DeviceRecord, situation: Situation, sha256: str, cause: str, detail: str) -> Decision:
    """A bundle of the plan did not load."""
    draft = Draft(record, situation)
    _useless(draft, sha256, cause, detail)
    return draft.done()


def useless(record: DeviceRecord, situation: Situation, sha256: str, cause: str, detail: str) -> Decision:
    """A member of the good set fails most requests: go back, if something else is there to answer."""
    draft = Draft(record, situation)
    culprits = _members(record.active, sha256)
    something_else = allowed(record.previous, record.recall) or factory_for(record, situation.factory)
    if culprits and something_else and draft.status not in LIVE | BACK:
        leave_active(draft, cause, detail, culprits)
    return draft.done()


def _useless(draft: Draft, sha256: str, cause: str, detail: str) -> None:
    """Do without a bundle that cannot be run: whichever set it is of, or both."""
    record = draft.record
    candidate, active = _members(record.candidate, sha256), _members(record.active, sha256)
    if candidate and draft.status in LIVE:
        draft.set(active=tuple(member for member in record.active if member not in active))
        leave_candidate(draft, Verdict("fail", cause, detail), blamed=candidate)
    elif not active:
        draft.do("drop-factory", "serve")  # it does not load either
    elif draft.status in BACK:
        previous_failed(draft, cause, detail, active)
    elif draft.status in LIVE:
        _lose_fallback(draft, cause, detail, active)
    else:
        leave_active(draft, cause, detail, active)


def _lose_fallback(draft: Draft, cause: str, detail: str, lost: ReleaseSet) -> None:
    """A good release does not load any more while its successor is judged: that goes on trial without it."""
    if cause not in SLOT_DAMAGE:
        draft.quarantine(lost, cause, detail)
    draft.set(active=tuple(member for member in draft.record.active if member not in lost))
    if draft.status == "shadow":
        draft.move("shadow-passed", progress=fresh_progress_of(draft.record.trying))
    draft.do("serve", "activate")


def died(
    record: DeviceRecord, situation: Situation, death: Death, detail: str, *, crash_loop: bool, during: str = ""
) -> Decision:
    """The worker ended; ``during`` is the bundle that it ran just then, where that is known.

    ``crash_loop``: the good set crashed it too often in a short time.
    """
    draft = Draft(record, situation)
    blamed = _members(record.trying, during)
    answered_by_good = bool(_members(record.active, during))
    draft.tell("worker-restarted", death, detail, _ended(record, situation, blamed))
    if draft.status in LIVE and situation.candidate_live and not answered_by_good:
        _candidate_died(draft, death, detail, blamed or record.trying)
    elif death in ("crash", "hang") and crash_loop:
        _loop_of_crashes(draft, detail, during)
    elif draft.status in LIVE:
        if situation.candidate_live:  # it was not the candidate's doing
            draft.set(progress={name: _given_back(known) for name, known in record.progress.items()})
        draft.do("activate-later")
    return draft.done()


def _loop_of_crashes(draft: Draft, detail: str, during: str) -> None:
    culprits = _members(draft.record.active, during) or draft.record.active
    if draft.status in BACK:
        previous_failed(draft, "crash-loop", detail, culprits)
    elif draft.status in LIVE:
        _useless(draft, during, "crash-loop", detail)
    elif culprits:
        leave_active(draft, "crash-loop", detail, culprits)


def _candidate_died(draft: Draft, death: Death, detail: str, suspects: ReleaseSet) -> None:
    progress, failed = dict(draft.record.progress), []
    for member in draft.record.trying:
        own = progress.get(member.release.name, Progress())
        progress[member.release.name], verdict = judge_death(own, death if member in suspects else "clean")
        if verdict.kind == "fail":
            failed.append((member, verdict))
    draft.set(progress=progress)
    if failed:
        verdict = failed[0][1]
        blamed = tuple(member for member, _ in failed)
        leave_candidate(draft, verdict._replace(detail=f"{verdict.detail}: {detail}"), blamed=blamed)
        return
    draft.do("activate-later")


# ------------------------------------------------------------------ shorthands


def _members(members: ReleaseSet, sha256: str) -> ReleaseSet:
    return tuple(member for member in members if member.sha256 == sha256)


def _ended(record: DeviceRecord, situation: Situation, blamed: ReleaseSet) -> RunningRelease | None:
    """Return the release that the death of a worker is told of."""
    in_plan = record.trying if situation.candidate_live and record.status in LIVE else record.active
    return blamed_release(blamed or in_plan)


def _has_predecessors(record: DeviceRecord) -> bool:
    names = {member.release.name for member in record.active}
    return any(member.release.name in names for member in record.trying)


def _tell_of_each(draft: Draft, kind: Literal["shadow-started", "trial-started", "committed"], cause: str) -> None:
    for member in draft.record.trying:
        progress = draft.record.progress.get(member.release.name)
        detail = summary(progress) if progress and cause != "admission-passed" and cause != "first-release" else ""
        draft.tell(kind, cause, detail, member.release)


def summary(progress: Progress) -> str:
    """Return how far a candidate came, in words."""
    return f"{progress.requests} requests, {progress.compared} compared, {progress.elapsed_s:.0f} s"


def _given_back(progress: Progress) -> Progress:
    return judge_death(progress, "clean")[0]
