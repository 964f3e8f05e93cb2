# SPDX-License-Identifier: Apache-2.0
"""A busy board rolls nobody back, at the stated error; a candidate that is truly slower is found.

Times are drawn, never measured: a model's work, and interruptions that meet whoever runs just then.
"""

import random
from collections import Counter

import msgspec
import pytest

from device_agent.core.evidence.ledger import sparse
from device_agent.core.evidence.pairs import EVEN_BIN, Pairs, Side, add_pairs
from device_agent.core.life.record import Progress
from device_agent.core.life.trial import judge_soft
from device_agent.worker.counts import bins_apart
from edgefleet.contracts.messages import LATENCY_BINS, SparseCounts
from edgefleet.contracts.policy import SoftRule

#: Large, so that a test that keeps less than it says is caught by few trials; the latencies' share is a third.
ERROR = 0.1
WORK_S = 0.0002


def taken_s(rng, work_s, *, every_s, for_s):
    """Return how long a run of some work takes that is interrupted once in about ``every_s`` of work."""
    work_s *= rng.lognormvariate(0.0, 0.1)
    left_s, total_s = work_s, work_s
    while (left_s := left_s - rng.expovariate(1.0 / every_s)) > 0.0:
        total_s += rng.expovariate(1.0 / for_s)
    return total_s


def pair(rng, *, times, every_s, for_s):
    """Return one pair's times: the candidate has ``times`` the work of the other."""
    load = rng.choice((1.0, 1.0, 1.0, 8.0))  # throttled, or somebody else's burst: it slows both
    both = [taken_s(rng, load * work_s, every_s=every_s, for_s=for_s) for work_s in (times * WORK_S, WORK_S)]
    return both[0], both[1]


def verdict(rng, draw, *, count, error=ERROR):
    """Return the first verdict of a trial of so many pairs that is looked at as it goes, with the pairs until then."""
    progress, apart = Progress(requests=200), Counter()
    for seen in range(1, count + 1):
        apart[EVEN_BIN + bins_apart(*draw(rng))] += 1
        if seen & (seen - 1) and seen != count:
            continue
        same = Side(classes=SparseCounts(bins=(0,), counts=(seen,)))
        pairs = Pairs(candidate=same, previous=same, apart=sparse(apart))
        progress = msgspec.structs.replace(progress, pairs=pairs)
        progress, said = judge_soft(progress, SoftRule(error=error), Side(), last=seen == count)
        if said.kind == "fail":
            return said.cause, seen
    return None


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("every_s", [0.002, 0.006, 0.02], ids=["very busy", "busy", "calm"])
def test_interruptions_blame_a_candidate_no_oftener_than_the_policy_says(times, every_s):
    rng = random.Random(f"{times} {every_s}")

    def draw(rng):
        return pair(rng, times=times, every_s=every_s, for_s=0.02)

    trials = 60
    blamed = sum(verdict(rng, draw, count=256) is not None for _ in range(trials))
    assert blamed <= trials * ERROR / 3


@pytest.mark.parametrize("every_s", [0.004, 0.02], ids=["busy", "calm"])
def test_a_candidate_that_is_slower_as_a_rule_is_found_at_the_first_look(every_s):
    rng = random.Random(every_s)

    def draw(rng):
        mine, other = pair(rng, times=1.0, every_s=every_s, for_s=0.02)
        return 30.0 * mine, other

    assert [verdict(rng, draw, count=64, error=1e-4) for _ in range(10)] == [("latency", 64)] * 10


def test_a_candidate_that_is_slow_with_few_inputs_is_found_in_time():
    rng = random.Random(5)

    def draw(rng):
        mine, other = pair(rng, times=1.0, every_s=0.02, for_s=0.02)
        return (mine + 0.02 if rng.random() < 0.1 else mine), other

    found = [verdict(rng, draw, count=1024, error=1e-4) for _ in range(10)]
    assert all(found), found
    assert max(seen for _, seen in found) <= 1024


def test_a_device_that_slows_both_makes_no_pair_that_counts():
    slow = {EVEN_BIN: 1000, EVEN_BIN + 13: 500, EVEN_BIN - 13: 3}  # up to 10 times is no lateness
    pairs = Pairs(candidate=Side(classes=SparseCounts(bins=(0,), counts=(1503,))), apart=sparse(Counter(slow)))
    assert judge_soft(Progress(pairs=pairs), SoftRule(), Side(), last=True)[1].kind == "wait"


def test_pairs_add_up_input_by_input():
    one = Pairs(apart=SparseCounts(bins=(EVEN_BIN,), counts=(2,)))
    other = Pairs(apart=SparseCounts(bins=(EVEN_BIN - 1, EVEN_BIN), counts=(1, 1)))
    assert add_pairs(one, other).apart == SparseCounts(bins=(EVEN_BIN - 1, EVEN_BIN), counts=(1, 3))


@pytest.mark.parametrize(
    ("seconds", "other", "bins"),
    [(1e-3, 1e-3, 0), (2e-3, 1e-3, 4), (1e-3, 2e-3, -4), (0.0, 1e-7, 0), (1e9, 0.0, LATENCY_BINS)],
)
def test_bins_apart_are_the_same_both_ways(seconds, other, bins):
    assert bins_apart(seconds, other) == bins == -bins_apart(other, seconds)
