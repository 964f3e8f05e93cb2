# SPDX-License-Identifier: Apache-2.0
"""Is a candidate slower than it may be, or is the board busy? Pure figures, about two models on the same inputs.

With a latency budget the candidate's answers beyond it are counted: more than one in a hundred, by the exact binomial
tail (Clopper and Pearson 1934, Biometrika 26:404), are too many, unless the previous model was as late.

Without one, only pairs count in which one side alone was late: took more than ``latency_ratio`` times as long as the
other on the same input. What slows both makes no such pair. The candidate is too slow

* as a rule, if it was late alone in more than half of all pairs (sign test): no board is that busy, or
* in its tail, if it was late alone in one pair in a hundred more than the other, and oftener than chance explains
  (McNemar's test, as for answers). Of a candidate that takes ``e`` times as long by the median pair, both sides' times
  are compared with that: late alone is more than ``latency_ratio`` times off it. An interruption meets whichever runs
  just then, so such a candidate may be the late one in ``e`` of ``1 + e`` such pairs, and not in half of them.

**Order.** One of both always runs second: with cold caches, and while the application that was just answered wants the
processor. That must not be to the candidate's harm. In a trial the candidate runs first. In shadow it runs second, and
what counts is the time that its thread was at work, without interruptions, against the whole time of the other. That
is less than it took where other threads or an accelerator did the work: what shadow cannot see then, the trial does.
"""

import math
from typing import NamedTuple

from device_agent.core.evidence.comparison import Finding, binomial_tail
from device_agent.core.evidence.pairs import EVEN_BIN, Pairs
from edgefleet.contracts.messages import LATENCY_BINS_PER_OCTAVE, SparseCounts
from edgefleet.contracts.policy import SoftRule

_ONE_PERCENT = 0.01


def slower(pairs: Pairs, rule: SoftRule, error: float) -> Finding | None:
    """Tell whether a candidate breaks its latency budget, or is far slower, where the model before it is not."""
    if pairs.latency_budget_us:
        return _over_budget(pairs, error)
    return _late_alone(pairs.apart, rule.latency_ratio, error)


def _over_budget(pairs: Pairs, error: float) -> Finding | None:
    limit = math.ceil(LATENCY_BINS_PER_OCTAVE * math.log2(pairs.latency_budget_us))
    late, late_before = (_above(side.latency, limit) for side in (pairs.candidate, pairs.previous))
    chance = binomial_tail(late, pairs.count, _ONE_PERCENT)
    if chance > error or late_before > _ONE_PERCENT * pairs.count + 1:
        return None
    what = f"the budget of {pairs.latency_budget_us} us"
    return Finding(
        "latency", f"{late} of {pairs.count} answers took longer than {what}, of that one's {late_before} did"
    )


def _late_alone(apart: SparseCounts, ratio: float, error: float) -> Finding | None:
    as_a_rule = _discordant(apart, ratio, usual=EVEN_BIN)
    if as_a_rule.one_sided and binomial_tail(as_a_rule.candidate, sum(apart.counts), 0.5) <= error / 2:
        return as_a_rule.finding(ratio, "the model before to the same input")
    usual = max(_median(apart), EVEN_BIN)
    times = 2.0 ** ((usual + 0.5 - EVEN_BIN) / LATENCY_BINS_PER_OCTAVE)
    tail = _discordant(apart, ratio, usual=usual)
    chance = binomial_tail(tail.candidate, tail.candidate + tail.previous, times / (1.0 + times))
    if tail.one_sided and chance <= error / 2:
        return tail.finding(ratio, "usual beside the model before")
    return None


class _Discordant(NamedTuple):
    """Of so many ``pairs`` those in which one side alone was late."""

    candidate: int
    previous: int
    pairs: int

    @property
    def one_sided(self) -> bool:
        return self.candidate - self.previous > _ONE_PERCENT * self.pairs

    def finding(self, ratio: float, what: str) -> Finding:
        return Finding(
            "latency",
            f"{self.candidate} of {self.pairs} answers took more than {ratio:g} times as long as {what},"
            f" {self.previous} the other way round",
        )


def _discordant(apart: SparseCounts, ratio: float, *, usual: int) -> _Discordant:
    limit = round(LATENCY_BINS_PER_OCTAVE * math.log2(ratio))
    previous = sum(count for place, count in zip(apart.bins, apart.counts, strict=True) if place < usual - limit)
    return _Discordant(_above(apart, usual + limit), previous, sum(apart.counts))


def _above(counts: SparseCounts, limit: int) -> int:
    return sum(count for place, count in zip(counts.bins, counts.counts, strict=True) if place > limit)


def _median(counts: SparseCounts) -> int:
    half, seen = sum(counts.counts) / 2.0, 0
    for place, count in zip(counts.bins, counts.counts, strict=True):
        seen += count
        if seen >= half:
            return place
    return EVEN_BIN
