# SPDX-License-Identifier: Apache-2.0
"""When shadow and trial end, and how: the verdicts over counted progress, and over deaths."""

from typing import Literal, NamedTuple

import msgspec

from device_agent.core.record import Progress
from edgefleet.contracts.messages import ModelWindow
from edgefleet.contracts.policy import ShadowRule, TrialRule

Death = Literal["crash", "unexplained", "clean"]


class Verdict(NamedTuple):
    """``wait``, ``pass``, or ``fail`` with a cause (kebab-case) and a sentence."""

    kind: Literal["wait", "pass", "fail"]
    cause: str = ""
    detail: str = ""


WAIT = Verdict("wait")
PASS = Verdict("pass")


def counted(progress: Progress, window: ModelWindow) -> Progress:
    """Return the progress with one window of the candidate added."""
    return msgspec.structs.replace(
        progress,
        requests=progress.requests + window.requests,
        failed=progress.failed + window.failed,
        non_finite=progress.non_finite + window.non_finite,
        compared=progress.compared + window.compared,
    )


def elapsed(progress: Progress, policy_seconds: float) -> Progress:
    """Return the progress with more running time on it."""
    return msgspec.structs.replace(progress, elapsed_s=progress.elapsed_s + max(policy_seconds, 0.0))


def judge_faults(progress: Progress, rule: TrialRule) -> Verdict:
    """Judge what ends a shadow or a trial badly at once."""
    if progress.non_finite > rule.non_finite_limit:
        return _over("non-finite", "NaN or infinite answers", progress.non_finite, rule.non_finite_limit)
    if progress.failed > rule.failed_limit:
        return _over("failed-requests", "failed requests", progress.failed, rule.failed_limit)
    return WAIT


def judge_shadow(progress: Progress, shadow: ShadowRule, trial: TrialRule) -> Verdict:
    """Judge a shadow: it ends by paired comparisons or by time, whichever comes first."""
    faults = judge_faults(progress, trial)
    if faults.kind == "fail":
        return faults
    return PASS if progress.compared >= shadow.samples or progress.elapsed_s >= shadow.limit_s else WAIT


def judge_trial(progress: Progress, rule: TrialRule) -> Verdict:
    """Judge a trial: enough requests and enough time make it pass; too much time without them makes it fail."""
    faults = judge_faults(progress, rule)
    if faults.kind == "fail":
        return faults
    if progress.requests >= rule.requests and progress.elapsed_s >= rule.minimum_s:
        return PASS
    if progress.elapsed_s >= rule.limit_s:
        return Verdict(
            "fail",
            "trial-timeout",
            f"{progress.requests} requests in {progress.elapsed_s:.0f} s, expected {rule.requests}",
        )
    return WAIT


def judge_death(progress: Progress, death: Death) -> tuple[Progress, Verdict]:
    """Account for the end of the process that held the candidate, and judge whether it may be activated again.

    The attempt was taken off before the activation. A crash keeps it off; anything else gives it back, and a death
    that nothing explains is taken off a limit of its own.
    """
    if death == "crash":
        verdict = WAIT if progress.attempts_left else Verdict("fail", "crash", "the model crashed its process")
        return progress, verdict
    given_back = msgspec.structs.replace(progress, attempts_left=progress.attempts_left + 1)
    if death == "clean":
        return given_back, WAIT
    less = msgspec.structs.replace(given_back, unexplained_left=progress.unexplained_left - 1)
    if less.unexplained_left < 0:
        return less, Verdict("fail", "unexplained-deaths", "the candidate's process died too often without a cause")
    return less, WAIT


def activated(progress: Progress) -> Progress:
    """Take one attempt off: to be stored durably before the candidate is activated."""
    return msgspec.structs.replace(progress, attempts_left=max(progress.attempts_left - 1, 0))


def _over(cause: str, what: str, got: int, limit: int) -> Verdict:
    return Verdict("fail", cause, f"{got} {what}, the limit is {limit}")
