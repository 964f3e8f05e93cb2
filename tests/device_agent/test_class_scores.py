# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 by class: right, undefined where there is nothing, and evidence in a trial."""

import random
from collections import Counter

import msgspec
import pytest

from device_agent.core.evidence import labels
from device_agent.core.evidence.class_scores import ClassCounts, Scores, accuracy, counted, macro, scores
from device_agent.core.evidence.labels import LabelMemory
from device_agent.core.evidence.ledger import confusion
from device_agent.core.evidence.pairs import ClassPairs, Pairs, Side, add_pairs, labelled_pair
from device_agent.core.life.record import Progress
from device_agent.core.life.trial import judge_soft
from edgefleet.contracts.messages import ModelWindow, RunningRelease
from edgefleet.contracts.policy import SoftRule


def _counted(answers):
    return counted({}, confusion(Counter(answers)))


def test_scores_are_those_of_the_book():
    by_class = _counted([(0, 0)] * 8 + [(0, 1)] * 2 + [(1, 1)] * 3 + [(1, 0)])
    assert by_class == {0: ClassCounts(8, 10, 9), 1: ClassCounts(3, 4, 5)}
    assert scores(by_class[0]) == Scores(8 / 9, 0.8, 16 / 19)
    assert macro(by_class) == pytest.approx(((8 / 9 + 3 / 5) / 2, (0.8 + 0.75) / 2, (16 / 19 + 6 / 9) / 2))
    assert accuracy(by_class) == 11 / 14


def test_what_has_no_samples_is_undefined_and_no_part_of_a_mean():
    assert scores(ClassCounts()) == (None, None, None)
    assert scores(ClassCounts(0, 3, 0)) == (None, 0.0, 0.0)  # never answered: there is no precision
    assert scores(ClassCounts(0, 0, 3)) == (0.0, None, 0.0)  # never due: there is no recall
    assert macro({0: ClassCounts(4, 4, 4), 1: ClassCounts(0, 2, 0)}) == (1.0, 0.5, 0.5)
    assert macro({}) == (None, None, None)
    assert accuracy({}) is None


def test_windows_add_up_by_release_and_the_newest_labelled_releases_are_kept():
    def window(number, answers):
        release = RunningRelease(name="digits", version=f"{number}.0.0", bundle_sha256=f"{number:064x}")
        return ModelWindow(release=release, role="active", labelled=confusion(Counter(answers)))

    known = labels.outcome({}, [window(1, [(0, 0)]), window(2, []), window(1, [(0, 1)])])
    assert known == {f"{1:064x}": _counted([(0, 0), (0, 1)])}
    many = labels.outcome(known, [window(number, [(1, 1)]) for number in (3, 4, 5, 6, 7, 8, 9)])
    assert list(labels.outcome(many, [window(1, [(1, 1)]), window(10, [(1, 1)])])) == [
        f"{number:064x}" for number in (4, 5, 6, 7, 8, 9, 1, 10)
    ]
    memory = LabelMemory(labelled=(1 << 63,), scores=known)
    assert msgspec.json.decode(msgspec.json.encode(memory), type=LabelMemory) == memory
    (shown,) = labels.scored_releases(memory, [window(1, []).release, window(2, []).release])
    assert (shown["version"], shown["labels"], shown["accuracy"]) == ("1.0.0", 2, 0.5)
    assert shown["macro"] == {"precision": 0.5, "recall": 0.5, "f1": pytest.approx(1 / 3)}
    assert shown["classes"]["1"] == {
        "right": 0,
        "actual": 0,
        "predicted": 1,
        "precision": 0.0,
        "recall": None,
        "f1": 0.0,
    }


@pytest.mark.parametrize(
    ("actual", "mine", "before", "expected"),
    [
        (3, 3, 3, {3: ClassPairs(1, 1, 0, 0, 0, 0, 0)}),
        (3, 3, 4, {3: ClassPairs(1, 0, 1, 0, 0, 0, 0), 4: ClassPairs(0, 0, 0, 0, 0, 0, 1)}),
        (3, 4, 3, {3: ClassPairs(1, 0, 0, 1, 0, 0, 0), 4: ClassPairs(0, 0, 0, 0, 0, 1, 0)}),
        (3, 4, 4, {3: ClassPairs(1, 0, 0, 0, 0, 0, 0), 4: ClassPairs(0, 0, 0, 0, 1, 0, 0)}),
        (3, 259, 4, {3: ClassPairs(1, 0, 0, 0, 0, 1, 0), 4: ClassPairs(0, 0, 0, 0, 0, 0, 1)}),  # shares the bin
    ],
)
def test_a_labelled_pair_is_counted_for_each_class_that_it_tells_of(actual, mine, before, expected):
    assert labelled_pair(actual, mine, before).by_class == expected


def _judged(pairs, rule=SoftRule()):  # noqa: B008  frozen
    return judge_soft(Progress(requests=200, pairs=pairs), rule, Side(), last=True)[1]


def _sum(answers):
    pairs = Pairs()
    for answer in answers:
        pairs = add_pairs(pairs, labelled_pair(*answer))
    return pairs


def test_one_class_of_many_that_got_worse_is_found_where_accuracy_hides_it():
    fine = [(c, c, c) for c in range(100) for _ in range(12)]
    lost = [(7, 8, 7)] * 30
    pairs = _sum(fine + lost)
    assert (pairs.labelled.only_previous, pairs.labelled.count) == (30, 1230)  # 2.4 points
    verdict = _judged(pairs)
    assert (verdict.kind, verdict.cause) == ("fail", "labels")
    assert verdict.detail == ("class 7: F1 0.44 over 1230 labelled inputs, the model before 1.00 (chance 9.3e-10)")
    assert _judged(pairs, SoftRule(f1_drop=1.0)).kind == "wait"
    recall = _judged(pairs, SoftRule(f1_drop=1.0, recall_drop=0.5))
    assert recall.detail.startswith("class 7: recall 0.29 over")
    precision = _judged(pairs, SoftRule(f1_drop=1.0, precision_drop=0.5))
    assert precision.detail.startswith("class 8: precision 0.29 over")


def test_few_labels_and_undefined_scores_blame_nobody():
    assert _judged(_sum([(c, c, c) for c in range(20)] * 10 + [(7, 8, 7)] * 5)).kind == "wait"
    silent = _sum(
        [(c, c, c) for c in range(40)] * 40 + [(50, 50, 51)] * 3
    )  # 51 was never due, and is not said any more
    assert _judged(silent, SoftRule(precision_drop=0.0, recall_drop=0.0, f1_drop=0.0)).kind == "wait"


def test_healthy_successors_are_blamed_no_oftener_than_the_policy_says():
    """Two models of 80 % at ten classes; looked at as labels come. Of the error, the labels have a third."""
    rng = random.Random(11)
    rule = SoftRule(error=0.1, f1_drop=0.0, precision_drop=0.0, recall_drop=0.0, accuracy_drop=0.0)
    trials, blamed = 150, 0
    for _ in range(trials):
        progress = Progress(requests=200)
        for seen in range(1, 257):
            actual = rng.randrange(10)
            mine, before = (actual if rng.random() < 0.8 else rng.randrange(10) for _ in range(2))
            pairs = add_pairs(progress.pairs, labelled_pair(actual, mine, before))
            progress, verdict = judge_soft(
                msgspec.structs.replace(progress, pairs=pairs), rule, Side(), last=seen == 256
            )
            if verdict.kind == "fail":
                blamed += 1
                break
    assert blamed <= trials * 0.1 / 3
