# SPDX-License-Identifier: Apache-2.0
"""Verdicts on a candidate beside the previous model: faults are found, chance and changed inputs are not blamed."""

import random
from collections import Counter

import msgspec
import pytest

from device_agent.core.evidence import comparison
from device_agent.core.evidence.ledger import sparse
from device_agent.core.evidence.pairs import EVEN_BIN, Labelled, Pairs, Side, add_pairs, binned, faded
from device_agent.core.life.record import Progress
from device_agent.core.life.trial import judge_soft
from edgefleet.contracts.messages import SparseCounts
from edgefleet.contracts.policy import DevicePolicy, SoftRule

RULE = SoftRule()
QUICK = 24  # 64 us


def histogram(values):
    return sparse(Counter(values))


def side(answers):
    """Return a side of (class, confidence bin, latency bin)."""
    classes, confidence, latency = zip(*answers, strict=True)
    return Side(classes=histogram(classes), confidence=histogram(confidence), latency=histogram(latency))


def pairs_of(mine, before, **changes):
    agreed = histogram([a[0] for a, b in zip(mine, before, strict=True) if a[0] == b[0]])
    apart = histogram([EVEN_BIN + a[2] - b[2] for a, b in zip(mine, before, strict=True)])
    pairs = Pairs(candidate=side(mine), previous=side(before), agreed=agreed, apart=apart)
    return msgspec.structs.replace(pairs, **changes)


def model(rng, classes, *, right=0.97, confidence=19, latency=QUICK):
    """Return answers of a model that is right in most cases."""
    return [(c if rng.random() < right else rng.randrange(10), confidence, latency) for c in classes]


def judged(pairs, baseline, *, last=True, rule=RULE):
    return judge_soft(Progress(requests=200, pairs=pairs), rule, baseline, last=last)[1]


@pytest.fixture
def rng():
    return random.Random(7)


@pytest.fixture
def classes(rng):
    return [rng.randrange(10) for _ in range(512)]


@pytest.fixture
def baseline(rng):
    return side(model(rng, [rng.randrange(10) for _ in range(2000)]))


def test_a_class_that_is_not_answered_any_more_is_the_candidates_fault(rng, classes, baseline):
    before = model(rng, classes)
    mine = [(4 if c == 7 else c, *rest) for c, *rest in before]
    verdict = judged(pairs_of(mine, before), baseline)
    lost = sum(c == 7 for c, *_ in before)
    assert (verdict.kind, verdict.cause) == ("fail", "class-missing")
    assert verdict.detail.startswith(f"class 7: 0 of 512 answers, the model before {lost} (chance ")


def test_swapped_labels_leave_the_histograms_alone_and_are_seen_by_labels(rng, classes, baseline):
    before = model(rng, classes)
    mine = [((c + 1) % 10, *rest) for c, *rest in before]
    labelled = Labelled(only_previous=30, neither=1)
    assert judged(pairs_of(mine, before), baseline).kind == "wait"
    verdict = judged(pairs_of(mine, before, labelled=labelled), baseline)
    assert (verdict.kind, verdict.cause) == ("fail", "labels")
    assert verdict.detail == "of 31 labelled inputs it had 0 right, the model before 30 (chance 9.3e-10)"


def test_a_class_that_takes_over_and_a_confidence_that_collapses_are_the_candidates_fault(rng, classes, baseline):
    before = model(rng, classes)
    drift = [(3 if rng.random() < 0.4 else c, *rest) for c, *rest in before]
    assert judged(pairs_of(drift, before), baseline).cause == "class-drift"
    unsure = [(c, 9, latency) for c, _, latency in before]
    verdict = judged(pairs_of(unsure, before), baseline)
    assert (verdict.kind, verdict.cause) == ("fail", "confidence")
    assert verdict.detail == "mean confidence 0.47 over 512 inputs, the model before 0.97 (noise 0.21)"


def test_a_slow_candidate_is_blamed_for_its_budget_and_a_busy_board_is_not(rng, classes, baseline):
    before = model(rng, classes)
    slow = [(c, confidence, QUICK + 16) for c, confidence, _ in before]
    verdict = judged(pairs_of(slow, before), baseline)
    assert (verdict.kind, verdict.cause) == ("fail", "latency")
    assert verdict.detail == (
        "512 of 512 answers took more than 10 times as long as the model before to the same input,"
        " 0 the other way round"
    )
    budget = judged(pairs_of(slow, before, latency_budget_us=100), baseline)
    assert "longer than the budget of 100 us" in budget.detail
    assert judged(pairs_of(slow, before, latency_budget_us=10_000), baseline).kind == "wait"
    busy = [(c, confidence, QUICK + 16) for c, confidence, _ in before]
    assert judged(pairs_of(slow, busy, latency_budget_us=100), baseline).kind == "wait"
    assert judged(pairs_of(slow, busy), baseline).kind == "wait"


@pytest.mark.parametrize("fault", ["inverted", "dark", "frozen", "class mix", "less sure"])
def test_inputs_that_changed_for_both_models_are_an_alert_and_no_fault(rng, classes, baseline, fault):
    if fault == "inverted":  # both answer nonsense, each its own
        before = [(rng.choice((1, 4, 8)), 12, QUICK) for _ in classes]
        mine = [(rng.choice((2, 3)), 8, QUICK) for _ in classes]
    elif fault == "dark":
        before, mine = [(8, 9, QUICK)] * 512, [(1, 5, QUICK)] * 512
    elif fault == "frozen":
        before, mine = [(3, 19, QUICK)] * 512, [(5, 19, QUICK)] * 512
    elif fault == "class mix":
        mixed = [rng.choice((8, 9)) for _ in classes]
        before, mine = model(rng, mixed), model(rng, mixed, right=0.8)
    else:
        before, mine = model(rng, classes, confidence=10), model(rng, classes, confidence=2)
    verdict = judged(pairs_of(mine, before, labelled=Labelled(only_previous=60, neither=300)), baseline)
    assert verdict.kind == "alert"
    assert verdict.cause in ("classes-moved", "confidence-moved")
    assert "the model before answers otherwise than it used to" in verdict.detail


def test_the_alert_is_given_once_a_trial(rng, baseline):
    pairs = pairs_of([(8, 9, QUICK)] * 512, [(8, 9, QUICK)] * 512)
    progress, first = judge_soft(Progress(pairs=pairs), RULE, baseline, last=True)
    _, second = judge_soft(progress, RULE, baseline, last=True)
    assert (first.kind, second.kind) == ("alert", "wait")


def test_without_a_baseline_nothing_is_blamed_on_histograms(rng, classes):
    before = model(rng, classes)
    mine = [(4, *rest) for _, *rest in before]
    assert judged(pairs_of(mine, before), Side()).kind == "wait"


def test_looks_are_taken_when_the_count_has_doubled_and_their_chances_add_up_to_the_whole(rng, baseline):
    taken, progress = [], Progress()
    for count in range(1, 1200):
        one = model(rng, [rng.randrange(10)])
        progress = msgspec.structs.replace(progress, pairs=add_pairs(progress.pairs, pairs_of(one, one)))
        looks = progress.looks
        progress, _ = judge_soft(progress, RULE, baseline, last=False)
        if progress.looks != looks:
            taken.append(count)
    assert taken == [64, 128, 256, 512, 1024]
    assert sum(comparison.look_share(k, 1e-4) for k in range(10_000)) == pytest.approx(1e-4, rel=1e-3)


def test_a_worker_that_grows_beyond_the_limit_is_the_candidates_fault():
    progress = Progress(requests=100, rss_first=100 << 20, rss_last=400 << 20)
    _, verdict = judge_soft(progress, RULE, Side(), last=False)
    assert (verdict.kind, verdict.cause, verdict.detail) == (
        "fail",
        "memory-growth",
        "the worker grew by 300 MiB within 100 requests, the limit is 256 MiB",
    )
    assert judge_soft(progress, SoftRule(memory_growth_bytes=0), Side(), last=False)[1].kind == "wait"


def test_healthy_successors_are_not_blamed_in_five_hundred_trials():
    """Two models of 97 %, the mean trial looked at five times; the bound is one in ten thousand a trial."""
    rng = random.Random(20_26)
    blamed = Counter()
    for _ in range(500):
        baseline = side(model(rng, [rng.randrange(10) for _ in range(rng.choice((64, 300, 2000)))]))
        progress = Progress()
        for _ in range(rng.choice((1, 2, 3))):
            classes = [rng.randrange(10) for _ in range(100)]
            mine, before = model(rng, classes), model(rng, classes)
            right = [(a[0] == c, b[0] == c) for a, b, c in zip(mine, before, classes, strict=True)]
            labelled = Labelled(
                both=right.count((True, True)),
                only_candidate=right.count((True, False)),
                only_previous=right.count((False, True)),
                neither=right.count((False, False)),
            )
            more = pairs_of(mine, before, labelled=labelled)
            progress = msgspec.structs.replace(progress, pairs=add_pairs(progress.pairs, more))
            progress, verdict = judge_soft(progress, RULE, baseline, last=True)
            blamed[verdict.kind] += 1
    assert blamed["fail"] + blamed["alert"] == 0


@pytest.mark.parametrize(
    ("successes", "trials", "share", "chance"),
    [(0, 10, 0.5, 1.0), (10, 10, 0.5, 0.5**10), (9, 10, 0.5, 11 / 1024), (2, 100, 0.01, 0.264238), (1, 1, 0.01, 0.01)],
)
def test_the_binomial_tail_is_exact(successes, trials, share, chance):
    assert comparison.binomial_tail(successes, trials, share) == pytest.approx(chance, rel=1e-5)


def test_the_distance_of_histograms_and_the_noise_of_a_sample_by_hand():
    a, b = SparseCounts(bins=(0, 1), counts=(1, 3)), SparseCounts(bins=(1, 2), counts=(1, 1))
    assert comparison.distance(a, b) == pytest.approx(0.5)
    assert comparison.weissman(1000, 16, 1e-4) == pytest.approx(0.100749, abs=1e-6)


def test_classes_beyond_the_bins_share_them_and_a_baseline_fades():
    assert binned(SparseCounts(bins=(1, 257), counts=(2, 3))) == SparseCounts(bins=(1,), counts=(5,))
    old = Side(classes=SparseCounts(bins=(1, 2), counts=(10, 1)))
    assert faded(old, 11) == old
    assert faded(old, 10) == Side(classes=SparseCounts(bins=(1,), counts=(5,)))


def test_an_older_signed_policy_keeps_the_default_rule_and_a_silent_one_is_signed_as_before():
    policy = DevicePolicy()
    assert policy.soft_rule == SoftRule()
    assert "soft" not in msgspec.to_builtins(policy)
    said = DevicePolicy(soft=SoftRule(class_shift=0.3))
    assert msgspec.convert(msgspec.to_builtins(said), DevicePolicy).soft_rule.class_shift == 0.3
