# SPDX-License-Identifier: Apache-2.0
"""Is a candidate worse than the model before it at one class, on the same labelled inputs? Pure figures.

Each class is judged as one against the rest, with McNemar's test in its exact form, as accuracy is: for recall on the
inputs of the class that one model alone had right, for precision on the inputs of others that one alone took for it,
and for F1, which both make worse, on all of these. A score that is undefined for either model is not judged.
"""

from collections.abc import Iterator
from typing import NamedTuple

from device_agent.core.evidence.class_scores import ClassCounts, scores
from device_agent.core.evidence.comparison import Finding, binomial_tail
from device_agent.core.evidence.pairs import ClassPairs, Pairs
from edgefleet.contracts.policy import SoftRule


class _Compared(NamedTuple):
    """A score of both models, how far it may fall, and on how many inputs one alone was wrong."""

    name: str
    mine: float | None
    before: float | None
    limit: float
    only_mine: int
    only_before: int


def worse_at_a_class(pairs: Pairs, rule: SoftRule, error: float) -> Finding | None:
    """Tell at which class the candidate is worse, significantly and by more than the rule bears."""
    compared = [(place, one) for place, counts in sorted(pairs.by_class.items()) for one in _compared(counts, rule)]
    for place, one in compared:
        if one.mine is None or one.before is None or one.before - one.mine <= one.limit:
            continue
        chance = binomial_tail(one.only_mine, one.only_mine + one.only_before, 0.5)
        if chance <= error / len(compared):
            return Finding(
                "labels",
                f"class {place}: {one.name} {one.mine:.2f} over {pairs.labelled.count} labelled inputs,"
                f" the model before {one.before:.2f} (chance {chance:.1e})",
            )
    return None


def _compared(counts: ClassPairs, rule: SoftRule) -> Iterator[_Compared]:
    """Yield the scores that the rule judges."""
    missed = counts.right_previous, counts.right_candidate
    false = counts.false_candidate, counts.false_previous
    either = missed[0] + false[0], missed[1] + false[1]
    mine, before = scores(_of_candidate(counts)), scores(_of_previous(counts))
    limits = rule.precision_drop, rule.recall_drop, rule.f1_drop
    for name, one, other, limit, wrong in zip(
        ("precision", "recall", "F1"), mine, before, limits, (false, missed, either), strict=True
    ):
        if limit < 1.0:
            yield _Compared(name, one, other, limit, *wrong)


def _of_candidate(counts: ClassPairs) -> ClassCounts:
    right = counts.right_both + counts.right_candidate
    return ClassCounts(right, counts.actual, right + counts.false_both + counts.false_candidate)


def _of_previous(counts: ClassPairs) -> ClassCounts:
    right = counts.right_both + counts.right_previous
    return ClassCounts(right, counts.actual, right + counts.false_both + counts.false_previous)
