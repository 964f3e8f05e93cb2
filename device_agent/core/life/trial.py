# SPDX-License-Identifier: Apache-2.0
"""When shadow and trial end, and how: the verdicts over counted progress, and over deaths."""

from typing import Literal, NamedTuple

import msgspec

from device_agent.core.evidence import comparison, slowness
from device_agent.core.evidence.class_evidence import worse_at_a_class
from device_agent.core.evidence.labels import UnpairedLabel, late_pairs
from device_agent.core.evidence.pairs import Pairs, Side, add_pairs
from device_agent.core.life.record import Progress
from edgefleet.contracts.messages import ModelWindow
from edgefleet.contracts.policy import ShadowRule, SoftRule, TrialRule

Death = Literal["crash", "hang", "unexplained", "clean"]


class Verdict(NamedTuple):
    """``wait``, ``pass``, ``fail``, or ``alert`` (no fault of the model) with a cause (kebab-case) and a sentence."""

    kind: Literal["wait", "pass", "fail", "alert"]
    cause: str = ""
    detail: str = ""


#: A candidate's memory is watched from its so manieth answer on.
WARM_REQUESTS = 32
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


def paired(progress: Progress, pairs: Pairs) -> Progress:
    """Return the progress with more pairs of the candidate's and the previous model's answers."""
    return msgspec.structs.replace(progress, pairs=add_pairs(progress.pairs, pairs))


def labelled_late(progress: Progress, labels: tuple[UnpairedLabel, ...]) -> Progress:
    """Return the progress with labels for pairs that the worker had forgotten."""
    return msgspec.structs.replace(progress, pairs=late_pairs(progress.pairs, labels)) if labels else progress


def grown(progress: Progress, rss_bytes: int) -> Progress:
    """Return the progress with the worker's memory of now; that of before is taken once the candidate is warm."""
    if not rss_bytes or progress.requests + progress.compared < WARM_REQUESTS:
        return progress
    return msgspec.structs.replace(progress, rss_first=progress.rss_first or rss_bytes, rss_last=rss_bytes)


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


def judge_soft(progress: Progress, rule: SoftRule, baseline: Side, *, last: bool) -> tuple[Progress, Verdict]:
    """Take a look at what no answer alone shows, if one is due (or the ``last`` one), and note that it was taken.

    ``baseline`` is how the previous model used to answer. What it shows on the same inputs, the candidate is not blamed
    for.
    """
    growth = progress.rss_last - progress.rss_first
    if rule.memory_growth_bytes and growth > rule.memory_growth_bytes:
        return progress, Verdict("fail", "memory-growth", _growth(progress, rule))
    progress, on_labels = _look_at_labels(progress, rule, baseline, last=last)
    if on_labels.kind == "fail":
        return progress, on_labels
    return _look_at_pairs(progress, rule, baseline, last=last)


def _growth(progress: Progress, rule: SoftRule) -> str:
    grew_mib, limit_mib = (n >> 20 for n in (progress.rss_last - progress.rss_first, rule.memory_growth_bytes))
    return f"the worker grew by {grew_mib} MiB within {progress.requests} requests, the limit is {limit_mib} MiB"


def _look_at_labels(progress: Progress, rule: SoftRule, baseline: Side, *, last: bool) -> tuple[Progress, Verdict]:
    due = comparison.next_look(progress.label_looks, comparison.FIRST_LABELS)
    if progress.pairs.labelled.count < (comparison.FIRST_LABELS if last else due):
        return progress, WAIT
    error = comparison.look_share(progress.label_looks, rule.error / 3)
    progress = msgspec.structs.replace(progress, label_looks=progress.label_looks + 1)
    if comparison.has_moved(progress.pairs, baseline):
        return progress, WAIT
    worse = comparison.worse_on_labels(progress.pairs, rule, error / 2)
    return progress, _failed(worse or worse_at_a_class(progress.pairs, rule, error / 2))


def _look_at_pairs(progress: Progress, rule: SoftRule, baseline: Side, *, last: bool) -> tuple[Progress, Verdict]:
    pairs = progress.pairs
    due = comparison.next_look(progress.looks, comparison.FIRST_LOOK)
    if pairs.count < (comparison.LAST_LOOK if last else due):
        return progress, WAIT
    error = comparison.look_share(progress.looks, rule.error / 3)
    progress = msgspec.structs.replace(progress, looks=progress.looks + 1)
    slow = slowness.slower(pairs, rule, error)
    if slow is not None:
        return progress, _failed(slow)
    if comparison.known(baseline) and not comparison.has_moved(pairs, baseline):
        return progress, _failed(comparison.worse_on_pairs(pairs, rule, error))
    changed = comparison.input_changed(pairs, baseline, error)
    if changed is None or progress.input_changed:
        return progress, WAIT
    return msgspec.structs.replace(progress, input_changed=True), Verdict("alert", changed.cause, changed.detail)


def _failed(finding: comparison.Finding | None) -> Verdict:
    return WAIT if finding is None else Verdict("fail", finding.cause, finding.detail)


def judge_death(progress: Progress, death: Death) -> tuple[Progress, Verdict]:
    """Account for the end of the process that held the candidate, and judge whether it may be activated again.

    The attempt was taken off before the activation. A crash or a hang keeps it off; anything else gives it back, and a
    death that nothing explains is taken off a limit of its own.
    """
    if death in ("crash", "hang"):
        what = "crashed its process" if death == "crash" else "hung"
        return progress, WAIT if progress.attempts_left else Verdict("fail", death, f"the model {what}")
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
