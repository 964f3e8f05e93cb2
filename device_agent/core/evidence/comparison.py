# SPDX-License-Identifier: Apache-2.0
"""Is a candidate worse than the model before it on the same inputs, or have the inputs changed? Pure figures.

* Two models on the same inputs are compared class by class with the exact form of McNemar's test (McNemar 1947,
  Psychometrika 12:153): of the inputs on which just one of them gave a class, or was right, half are expected on either
  side. A class is one of several tests, so its bound is divided by their number (Bonferroni).
* Confidences are compared by Hoeffding's inequality for the mean of differences in [-1, 1] (1963, JASA 58:13).
* Latencies pair by pair, in :mod:`device_agent.core.evidence.slowness`.
* Whether the previous model's answers left its own baseline, by the total variation distance of two histograms, with
  the bound of Weissman et al. 2003 (HPL-2003-97R1) for the noise of each: it shrinks with the number of samples, where
  a fixed threshold on PSI gives false alarms in 67 % of healthy windows of 50 samples.

Evidence is looked at again and again: the k-th look has the share 6 / (pi k)^2 of the whole error probability, which
adds up to it (a union bound). Looks are taken when the count has doubled.
"""

import math
from typing import NamedTuple

from device_agent.core.evidence.pairs import Pairs, Side
from edgefleet.contracts.messages import CONFIDENCE_BINS, SparseCounts
from edgefleet.contracts.policy import SoftRule

#: The first look is at so many pairs, or labels.
FIRST_LOOK = 64
FIRST_LABELS = 16
#: A trial that ends has one more look, at no fewer pairs.
LAST_LOOK = 16
_BASELINE_COUNT = 64
_COARSE_BINS = 16
#: A previous model that moved further from its baseline than this, whatever the certainty, is no witness.
_NO_WITNESS = 0.1


class Finding(NamedTuple):
    """A cause (kebab-case) and a sentence with the figures."""

    cause: str
    detail: str


def next_look(looks: int, first: int) -> int:
    """Return the count at which the next look is taken."""
    return first << looks


def look_share(looks: int, error: float) -> float:
    """Return the error probability of one look after ``looks`` earlier ones."""
    return error * 6.0 / (math.pi * (looks + 1)) ** 2


def worse_on_labels(pairs: Pairs, rule: SoftRule, error: float) -> Finding | None:
    """Tell whether the candidate is wrong significantly, and by more than the rule bears, where the other is right."""
    labelled = pairs.labelled
    drop = (labelled.only_previous - labelled.only_candidate) / max(labelled.count, 1)
    chance = binomial_tail(labelled.only_previous, labelled.only_previous + labelled.only_candidate, 0.5)
    if drop <= rule.accuracy_drop or chance > error:
        return None
    right, before = labelled.both + labelled.only_candidate, labelled.both + labelled.only_previous
    return Finding(
        "labels",
        f"of {labelled.count} labelled inputs it had {right} right, the model before {before} (chance {chance:.1e})",
    )


def worse_on_pairs(pairs: Pairs, rule: SoftRule, error: float) -> Finding | None:
    """Tell what is wrong with a candidate's answers, beside those of the model before to the same inputs."""
    return _lost_class(pairs, rule, error / 2) or _collapsed(pairs, rule, error / 2)


def _lost_class(pairs: Pairs, rule: SoftRule, error: float) -> Finding | None:
    mine, others, agreed = (dict(_items(c)) for c in (pairs.candidate.classes, pairs.previous.classes, pairs.agreed))
    for place in sorted(set(mine) | set(others)):
        gave, before = mine.get(place, 0), others.get(place, 0)
        only, only_before = gave - agreed.get(place, 0), before - agreed.get(place, 0)
        chance = 2.0 * binomial_tail(max(only, only_before), only + only_before, 0.5)
        if chance > error / len(set(mine) | set(others)):
            continue
        shift = (gave - before) / pairs.count
        figures = f"class {place}: {gave} of {pairs.count} answers, the model before {before} (chance {chance:.1e})"
        if before and (before - gave) / before >= rule.lost_share:
            return Finding("class-missing", figures)
        if abs(shift) > rule.class_shift:
            return Finding("class-drift", figures)
    return None


def _collapsed(pairs: Pairs, rule: SoftRule, error: float) -> Finding | None:
    mine, before = mean_confidence(pairs.candidate), mean_confidence(pairs.previous)
    noise = math.sqrt(2.0 * math.log(1.0 / error) / pairs.count)
    if before - mine - noise <= rule.confidence_drop:
        return None
    return Finding(
        "confidence",
        f"mean confidence {mine:.2f} over {pairs.count} inputs, the model before {before:.2f} (noise {noise:.2f})",
    )


def moved(side: Side, baseline: Side) -> float:
    """Return how far one model's answers are from its baseline: total variation distance, of classes or confidence."""
    return max(distance(side.classes, baseline.classes, _COARSE_BINS), distance(side.confidence, baseline.confidence))


def known(baseline: Side) -> bool:
    """Tell whether enough is known of how the model before used to answer."""
    return baseline.count >= _BASELINE_COUNT


def has_moved(pairs: Pairs, baseline: Side) -> bool:
    """Tell whether the model before seems to answer otherwise than it used to: then it is no witness."""
    return known(baseline) and moved(pairs.previous, baseline) > _NO_WITNESS + _scatter(pairs, baseline)


def input_changed(pairs: Pairs, baseline: Side, error: float) -> Finding | None:
    """Tell whether the model before answers otherwise than it used to, beyond what chance does."""
    if not known(baseline):
        return None
    noise = weissman(pairs.count, _COARSE_BINS, error / 4) + weissman(baseline.count, _COARSE_BINS, error / 4)
    for what, bins in (("classes", _COARSE_BINS), ("confidence", CONFIDENCE_BINS)):
        far = distance(getattr(pairs.previous, what), getattr(baseline, what), bins)
        if far - noise > 0.0:
            return Finding(
                f"{what}-moved",
                f"the model before answers otherwise than it used to: the {what} of {pairs.count} answers lie {far:.2f}"
                f" from {baseline.count} earlier ones (noise {noise:.2f})",
            )
    return None


def _scatter(pairs: Pairs, baseline: Side) -> float:
    """Return what the distance of two healthy histograms is about: half of sqrt(2 bins / pi n), for each."""
    return sum(math.sqrt(_COARSE_BINS / (2.0 * math.pi * max(n, 1))) for n in (pairs.count, baseline.count)) / 2.0


def distance(a: SparseCounts, b: SparseCounts, bins: int = CONFIDENCE_BINS) -> float:
    """Return the total variation distance of two histograms; bins beyond the largest of ``b`` are taken together."""
    largest = [place for place, _ in sorted(_items(b), key=lambda item: -item[1])[: bins - 1]]
    shares_a, shares_b = _shares(a, largest), _shares(b, largest)
    return sum(abs(x - y) for x, y in zip(shares_a, shares_b, strict=True)) / 2.0


def weissman(count: int, bins: int, error: float) -> float:
    """Return how far (total variation) a histogram of ``count`` samples is from the truth, but for ``error``."""
    return math.sqrt(2.0 * (bins * math.log(2.0) + math.log(1.0 / error)) / max(count, 1)) / 2.0


def mean_confidence(side: Side) -> float:
    """Return the mean of a side's confidences, to half a bin."""
    total = sum(side.confidence.counts)
    weighted = sum((place + 0.5) * count for place, count in _items(side.confidence))
    return weighted / (CONFIDENCE_BINS * total) if total else 0.0


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """Return the chance of at least so many successes.

    Exact, summed in logarithms.
    """
    if successes <= 0:
        return 1.0
    log_p, log_q = math.log(share), math.log1p(-share)
    ways = math.lgamma(trials + 1)

    def chance_of(k: int) -> float:
        return math.exp(ways - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_p + (trials - k) * log_q)

    return min(math.fsum(chance_of(k) for k in range(successes, trials + 1)), 1.0)


def _shares(counts: SparseCounts, largest: list[int]) -> list[float]:
    by_bin, total = dict(_items(counts)), max(sum(counts.counts), 1)
    shares = [by_bin.get(place, 0) / total for place in largest]
    return [*shares, sum(counts.counts) / total - sum(shares)]


def _items(counts: SparseCounts) -> list[tuple[int, int]]:
    return list(zip(counts.bins, counts.counts, strict=True))
