# SPDX-License-Identifier: Apache-2.0
"""The gate between two waves: evidence in, findings out, each with what was observed and what was allowed.

A rule that cannot be read stops; a rule that has not seen enough waits. Nothing here is a statistic yet: bounds are
compared with plain shares, and exposure minimums keep small numbers from deciding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.policy import GateRule

Outcome = Literal["pass", "wait", "broken", "not-applicable"]


@dataclass(frozen=True)
class Figures:
    """Sums of what models did, from telemetry; ``correct`` of ``labelled`` answers were right.

    ``requests`` are those of applications, ``failed`` and ``non_finite`` some of them; a shadow has none.
    """

    requests: int = 0
    failed: int = 0
    non_finite: int = 0
    compared: int = 0
    disagreed: int = 0
    labelled: int = 0
    correct: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(**{part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(self)})

    def readable(self) -> bool:
        """Tell whether the sums can be true: none negative, no part larger than its whole."""
        return (
            min(getattr(self, part.name) for part in fields(self)) >= 0
            and self.failed + self.non_finite <= self.requests
            and self.disagreed <= self.compared
            and self.correct <= self.labelled
        )


NOTHING = Figures()


@dataclass(frozen=True)
class WaveEvidence:
    """All that the gate looks at.

    ``assigned`` devices have the release by this rollout; ``failed`` of them refused it or rolled it back;
    ``exposed`` of them reported requests answered by it, or (of software) that it works. ``wave`` sums their figures
    for the new release since the wave began; ``others`` sums, over the same time, those of devices that do not have it.
    ``had_previous`` counts assigned devices that ran something before; ``remaining`` counts devices still on a release
    before. ``unreadable`` devices reported figures that cannot be true.
    """

    assigned: tuple[str, ...]
    failed: tuple[str, ...]
    exposed: tuple[str, ...]
    unsettled: tuple[str, ...]
    wave: Figures
    others: Figures
    had_previous: int
    remaining: int
    elapsed_s: float
    minimum_s: float
    last_wave: bool
    unreadable: tuple[str, ...] = ()


class Finding(Fact, frozen=True, kw_only=True):
    """One rule's answer, as data: ``observed`` against ``bound``, and the devices that it speaks of."""

    rule: str
    outcome: Outcome
    observed: float
    bound: float
    text: str
    devices: tuple[str, ...] = ()


class Verdict(Fact, frozen=True, kw_only=True):
    """The gate's answer: every rule's finding, and what follows from all of them together."""

    outcome: Literal["pass", "wait", "broken"]
    cause: str
    findings: tuple[Finding, ...]


def judge(rule: GateRule, evidence: WaveEvidence) -> Verdict:
    """Apply every rule and return the verdict: broken if one is broken, wait if one waits, else pass.

    After ``rule.limit_s`` a gate that still waits is broken, with the cause ``not-enough-evidence``.
    """
    findings = (
        _readable(evidence),
        _failures(rule, evidence),
        _disagreement(rule, evidence),
        _accuracy(rule, evidence),
        _minimum(
            "minimum-time", evidence.elapsed_s, evidence.minimum_s, "{:.0f} s of {:.0f} s of the wave have passed"
        ),
        _minimum_devices(rule, evidence),
        _minimum("minimum-requests", evidence.wave.requests, rule.minimum_requests, "{:.0f} of {:.0f} requests seen"),
        _settled(evidence),
    )
    broken = [finding for finding in findings if finding.outcome == "broken"]
    if broken:
        return Verdict(outcome="broken", cause=broken[0].rule, findings=findings)
    waiting = [finding for finding in findings if finding.outcome == "wait"]
    if not waiting:
        return Verdict(outcome="pass", cause="all-rules-pass", findings=findings)
    if evidence.elapsed_s >= max(rule.limit_s, evidence.minimum_s):
        return Verdict(outcome="broken", cause="not-enough-evidence", findings=findings)
    return Verdict(outcome="wait", cause=waiting[0].rule, findings=findings)


def _readable(evidence: WaveEvidence) -> Finding:
    good = not evidence.unreadable and evidence.wave.readable() and evidence.others.readable()
    return Finding(
        rule="evidence-unreadable",
        outcome="pass" if good else "broken",
        observed=0.0 if good else 1.0,
        bound=0.0,
        text="the evidence adds up" if good else "the evidence contradicts itself: a part is larger than its whole",
        devices=evidence.unreadable,
    )


def _failures(rule: GateRule, evidence: WaveEvidence) -> Finding:
    count, total = len(evidence.failed), len(evidence.assigned)
    share = count / total if total else 0.0
    broken = count > rule.failed_devices_grace and share > rule.failed_devices
    return Finding(
        rule="failed-devices",
        outcome="broken" if broken else "pass",
        observed=share,
        bound=rule.failed_devices,
        text=f"{count} of {total} devices refused the release or rolled it back "
        f"(allowed: {rule.failed_devices:.1%}, or {rule.failed_devices_grace} devices)",
        devices=evidence.failed,
    )


def _disagreement(rule: GateRule, evidence: WaveEvidence) -> Finding:
    compared, disagreed = evidence.wave.compared, evidence.wave.disagreed
    share = disagreed / compared if compared > 0 else 0.0
    outcome, why = _exposure(compared, rule.minimum_compared)
    if not evidence.had_previous:
        outcome, why = "not-applicable", "no device of the wave ran a release before"
    elif outcome == "pass" and share > rule.disagreement:
        outcome = "broken"
    return Finding(
        rule="disagreement",
        outcome=outcome,
        observed=share,
        bound=rule.disagreement,
        text=why or f"{disagreed} of {compared} paired answers differ ({share:.1%}, allowed {rule.disagreement:.1%})",
    )


def _accuracy(rule: GateRule, evidence: WaveEvidence) -> Finding:
    wave, others = evidence.wave, evidence.others
    outcome, why = _exposure(min(wave.labelled, others.labelled), rule.minimum_labels)
    drop = 0.0
    if not evidence.remaining:
        outcome, why = _exposure(wave.labelled, rule.minimum_labels)
        outcome = "wait" if outcome == "wait" else "not-applicable"
        why = why if outcome == "wait" else "no device is left on the release before to compare with"
    elif outcome == "pass":
        drop = others.correct / others.labelled - wave.correct / wave.labelled
        outcome = "broken" if drop > rule.accuracy_drop else "pass"
    return Finding(
        rule="accuracy-drop",
        outcome=outcome,
        observed=drop,
        bound=rule.accuracy_drop,
        text=why
        or f"{wave.correct} of {wave.labelled} labelled answers right in the wave, {others.correct} of "
        f"{others.labelled} on the release before: {-drop:+.1%} (allowed {-rule.accuracy_drop:+.1%})",
    )


def _exposure(seen: int, minimum: int) -> tuple[Outcome, str]:
    """Return how a share over ``seen`` cases may be used, and why not where it may not."""
    if seen < minimum:
        return "wait", f"{seen} of {minimum} cases seen"
    if seen <= 0:
        return "not-applicable", "the policy asks for none, and none was seen"
    return "pass", ""


def _minimum(name: str, seen: float, needed: float, text: str) -> Finding:
    outcome: Outcome = "pass" if seen >= needed else "wait"
    return Finding(
        rule=name, outcome=outcome, observed=float(seen), bound=float(needed), text=text.format(seen, needed)
    )


def _minimum_devices(rule: GateRule, evidence: WaveEvidence) -> Finding:
    needed = max(1, min(rule.minimum_devices, len(evidence.assigned)))
    return _minimum("minimum-devices", len(evidence.exposed), needed, "{:.0f} of {:.0f} devices have shown it at work")


def _settled(evidence: WaveEvidence) -> Finding:
    """Before a rollout may be called completed, no device that is online may still be under way."""
    waiting: Sequence[str] = evidence.unsettled if evidence.last_wave else ()
    return Finding(
        rule="settled",
        outcome="wait" if waiting else "pass",
        observed=float(len(waiting)),
        bound=0.0,
        text=f"{len(waiting)} online devices are still under way" if waiting else "no online device is under way",
        devices=tuple(waiting),
    )
