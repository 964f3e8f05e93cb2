# SPDX-License-Identifier: Apache-2.0
"""A rollout's next step: ``step(rollout, evidence, now) -> actions``, and nothing else decides.

The life cycle is ``draft → awaiting-approval → running(wave) ⇄ paused → completed``, or ``halted → rolled-back``.
A release goes through the first two states (uploaded, then proposed to its approvers); only an approved release
has a rollout, which therefore begins in ``running``.

Rules that every step keeps:

1. A device gets the release at most once from one rollout, in the order of the rollout's salted hash.
2. The devices of the holdout get it in the last wave only.
3. Every device that has the release by this rollout goes back when it halts: with a new, higher counter.
4. A rollout that has ended is never stepped into another state, but ``halted`` into ``rolled-back``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgefleet.contracts.errors import ConflictError
from edgefleet.contracts.policy import RolloutPolicy
from fleet_server.core.rollouts.cohort import cohort_order, devices_to_assign, wave_size
from fleet_server.core.rollouts.gate import NOTHING, Figures, Verdict, WaveEvidence, judge

RolloutState = Literal["running", "paused", "completed", "halted", "rolled-back"]
Order = Literal["pause", "resume", "abort", "undo"]


@dataclass(frozen=True)
class Rollout:
    """One release on its way. Times are Unix seconds; ``wave`` counts from 0; ``cause`` says why it stopped."""

    id: str
    name: str
    version: str
    policy: RolloutPolicy
    salt: str
    holdout: frozenset[str]
    created_at: float
    state: RolloutState = "running"
    wave: int = 0
    wave_started_at: float = 0.0
    cause: str = ""


@dataclass(frozen=True)
class DeviceEvidence:
    """What is known of one device that the rollout covers.

    ``assigned``: it has the release by this rollout. ``failed``: it refused the release or rolled it back, and does
    not run it. ``settled``: it runs and has committed it. ``back``: after a halt, it no longer runs it.
    ``works``: it has shown that it works although it answers no requests, as software does.
    ``candidate`` are its figures of the new release since the wave began, ``before`` those of any other release.
    """

    device: str
    online: bool
    assigned: bool = False
    had_previous: bool = False
    failed: bool = False
    settled: bool = False
    works: bool = False
    back: bool = False
    candidate: Figures = NOTHING
    before: Figures = NOTHING


@dataclass(frozen=True)
class Step:
    """What follows: the rollout as it is now, who gets the release, who goes back, and the gate's verdict."""

    rollout: Rollout
    assign: tuple[str, ...] = ()
    revert: tuple[str, ...] = ()
    verdict: Verdict | None = None


def step(rollout: Rollout, evidence: Sequence[DeviceEvidence], now: float, *, time_scale: float = 1.0) -> Step:
    """Return a rollout's next step; equal arguments give equal steps.

    ``now`` is in Unix seconds; ``time_scale`` divides the policy's durations.
    """
    if rollout.state == "halted":
        return _step_halted(rollout, evidence)
    if rollout.state != "running":
        return Step(rollout)
    assign = _wave_members(rollout, evidence)
    if assign:
        started = replace(rollout, wave_started_at=rollout.wave_started_at or now)
        return Step(started, assign=assign)
    if not any(device.assigned for device in evidence):
        return Step(rollout)  # the fleet has no device that the release covers: there is nothing to judge yet
    verdict = judge(
        rollout.policy.gate, _wave_evidence(rollout, evidence, (now - rollout.wave_started_at) * time_scale)
    )
    if verdict.outcome == "broken":
        return replace(_halt(rollout, evidence, verdict.cause), verdict=verdict)
    if verdict.outcome == "wait":
        return Step(rollout, verdict=verdict)
    return _next_wave(rollout, evidence, now, verdict)


def carry_out(rollout: Rollout, order: Order, evidence: Sequence[DeviceEvidence]) -> Step:
    """Carry out a person's order.

    Raises:
        ConflictError: the rollout is in a state in which the order has no meaning.
    """
    allowed = {
        "pause": ("running",),
        "resume": ("paused",),
        "abort": ("running", "paused"),
        "undo": ("running", "paused", "completed"),
    }[order]
    if rollout.state not in allowed:
        raise ConflictError(
            f"cannot {order} rollout '{rollout.id}': it is {rollout.state}, expected {' or '.join(allowed)}",
            hint=f"see: edgefleet rollouts status {rollout.id}",
        )
    if order == "pause":
        return Step(replace(rollout, state="paused", cause="paused-by-order"))
    if order == "resume":
        return Step(replace(rollout, state="running", cause=""))
    return _halt(rollout, evidence, "aborted-by-order" if order == "abort" else "undone-by-order")


def last_wave(rollout: Rollout) -> bool:
    """Tell whether the rollout is in its last wave, which also releases the holdout."""
    return rollout.wave == len(rollout.policy.waves) - 1


def _wave_members(rollout: Rollout, evidence: Sequence[DeviceEvidence]) -> tuple[str, ...]:
    order = cohort_order(rollout.salt, (device.device for device in evidence))
    size = wave_size(len(order), rollout.policy.waves[rollout.wave].percent)
    return devices_to_assign(
        order,
        assigned=frozenset(device.device for device in evidence if device.assigned),
        holdout=frozenset() if last_wave(rollout) else rollout.holdout,
        size=size,
    )


def _wave_evidence(rollout: Rollout, evidence: Sequence[DeviceEvidence], elapsed_s: float) -> WaveEvidence:
    assigned = [device for device in evidence if device.assigned]
    others = [device for device in evidence if not device.assigned]
    return WaveEvidence(
        assigned=tuple(device.device for device in assigned),
        unreadable=tuple(d.device for d in evidence if not (d.candidate.readable() and d.before.readable())),
        failed=tuple(device.device for device in assigned if device.failed),
        exposed=tuple(device.device for device in assigned if device.candidate.requests > 0 or device.works),
        unsettled=tuple(d.device for d in assigned if d.online and not (d.settled or d.failed)),
        wave=sum((device.candidate for device in assigned), NOTHING),
        others=sum((device.before for device in others), NOTHING),
        had_previous=sum(device.had_previous for device in assigned),
        remaining=sum(device.had_previous for device in others),
        elapsed_s=elapsed_s,
        minimum_s=rollout.policy.waves[rollout.wave].minimum_s,
        last_wave=last_wave(rollout),
    )


def _next_wave(rollout: Rollout, evidence: Sequence[DeviceEvidence], now: float, verdict: Verdict) -> Step:
    if last_wave(rollout):
        return Step(replace(rollout, state="completed", cause="all-rules-pass"), verdict=verdict)
    onward = replace(rollout, wave=rollout.wave + 1, wave_started_at=now)
    return Step(onward, assign=_wave_members(onward, evidence), verdict=verdict)


def _halt(rollout: Rollout, evidence: Sequence[DeviceEvidence], cause: str) -> Step:
    revert = tuple(device.device for device in evidence if device.assigned)
    return Step(replace(rollout, state="halted", cause=cause), revert=revert)


def _step_halted(rollout: Rollout, evidence: Sequence[DeviceEvidence]) -> Step:
    """A halted rollout is rolled back once no online device that had the release runs it any more."""
    if all(device.back or not device.online for device in evidence if device.assigned):
        return Step(replace(rollout, state="rolled-back"))
    return Step(rollout)
