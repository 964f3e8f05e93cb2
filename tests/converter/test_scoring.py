# SPDX-License-Identifier: Apache-2.0
"""Each task's metrics through the converter's eyes: by name, per class, compared with the float model."""

import numpy as np
import pytest

from converter.adapters.user_code.metrics import load_metric
from converter.core.detection import detections
from converter.core.reports.confusion import LARGEST_MATRIX, confusion, confusion_table
from converter.core.scoring import check_labels, compare, default_metric, score, task_metrics, top1
from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.contracts.evidence import ClassScore
from edgefleet.contracts.manifest import Task

#: Two images: one wanted box of class 0 each, found exactly in the first, missed by a hair in the second.
BOXES = np.array([[[0, 0, 2, 2, 0]], [[0, 0, 2, 2, 0]]], np.float64)
FOUND = np.array([[[0, 0, 2, 2, 0, 0.9]], [[0, 0, 2, 0.9, 0, 0.8]]], np.float64)


def test_each_task_names_its_metrics_its_own_first() -> None:
    names: dict[Task, list[str]] = {
        "classification": ["accuracy", "macro-f1"],
        "regression": ["mse", "mae", "rmse", "r2"],
        "anomaly": ["auc"],
        "detection": ["map50"],
    }
    for task, expected in names.items():
        assert [metric.name for metric in task_metrics(task)] == expected
        assert default_metric(task).name == load_metric(None, task).name == expected[0]
        assert [load_metric(name, task).name for name in expected] == expected


def test_only_errors_are_better_when_small() -> None:
    every = {m.name: m.larger_is_better for t in ("classification", "regression", "anomaly") for m in task_metrics(t)}  # type: ignore[arg-type]
    assert {name for name, larger in every.items() if not larger} == {"mse", "mae", "rmse"}


def test_a_metric_of_another_task_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(InputError) as refused:
        load_metric("auc", "regression")
    assert refused.value.message == "--metric is 'auc', expected mse, mae, rmse, r2 (for regression) or module:function"


def test_regression_metrics_by_hand() -> None:
    outputs, targets = np.array([[1.0], [2.0], [6.0]]), np.array([1.0, 4.0, 4.0])
    values = {metric.name: metric.function(outputs, targets) for metric in task_metrics("regression")}
    assert values == pytest.approx({"mse": 8 / 3, "mae": 4 / 3, "rmse": (8 / 3) ** 0.5, "r2": 1 - 8 / 6})


def test_confusion_counts_each_class_and_an_answer_of_nan_is_missed() -> None:
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [np.nan, 0.1]])
    found = confusion(top1(outputs), np.array([0, 1, 1, 1]), ["cat", "dog"], classes=2)
    assert found.counts == ((1, 0), (1, 1))
    assert found.classes == (
        ClassScore(label="cat", samples=1, precision=0.5, recall=1.0, f1=2 / 3),
        ClassScore(label="dog", samples=3, precision=1.0, recall=1 / 3, f1=0.5),
    )
    assert confusion_table(found) == (
        "class samples precision  recall      F1\n"
        "cat         1    0.5000  1.0000  0.6667\n"
        "dog         3    1.0000  0.3333  0.5000"
    )


def test_classes_without_a_name_go_by_their_number() -> None:
    found = confusion(np.array([2]), np.array([2]), [], classes=3)
    assert [row.label for row in found.classes] == ["0", "1", "2"]
    assert [row.f1 for row in found.classes] == [0.0, 0.0, 1.0]


def test_a_matrix_of_very_many_classes_is_left_out() -> None:
    many = LARGEST_MATRIX + 1
    found = confusion(np.array([0]), np.array([0]), [], classes=many)
    assert (found.counts, len(found.classes)) == ((), many)


def test_the_outputs_of_a_detector_become_rows_by_their_roles() -> None:
    outputs = [np.array([[1, 0]]), np.array([[[0, 0, 1, 1], [5, 5, 6, 6]]]), np.array([1.0]), np.array([[0.7, 0.6]])]
    rows = detections(outputs, ["classes", "boxes", "count", "scores"])
    assert rows.tolist() == [[0, 0, 1, 1, 1, 0.7], [0, 0, 0, 0, -1, 0]]


def test_a_detector_without_scores_is_refused() -> None:
    with pytest.raises(InputError) as refused:
        detections([np.zeros((1, 1, 4)), np.zeros((1, 1))], ["boxes", "classes"])
    assert refused.value.message == "no output of the model is the detector's scores"


def test_detections_are_scored_per_class_and_compared() -> None:
    metric = default_metric("detection")
    found = score(metric, FOUND, BOXES, "detection")
    assert (found.metric, found.value, found.per_class) == ("map50", 0.5, (0.5,))
    better = FOUND.copy()
    better[1, 0, 3] = 2.0
    compared = compare(metric, better, FOUND, BOXES, task="detection")
    assert (compared.float_value, compared.difference, compared.top1_agreement) == (1.0, -0.5, 1.0)
    assert compared.interval.low <= -0.5 <= compared.interval.high <= 0.0


def test_answers_that_are_no_detections_are_refused() -> None:
    with pytest.raises(InputError) as refused:
        score(default_metric("detection"), np.zeros((2, 7, 4)), BOXES, "detection")
    assert refused.value.message == "the model's answers have the shape [7, 4], and detections have [rows, 6]"


def test_labels_that_are_no_boxes_are_refused() -> None:
    with pytest.raises(SampleError) as refused:
        check_labels(np.zeros(3, np.int64), 10, task="detection", source="live.npz")
    assert refused.value.message == ("live.npz has labels of int64 with shape [3], expected boxes [samples, boxes, 5]")


def test_macro_f1_has_a_paired_interval_around_its_difference() -> None:
    chance = np.random.default_rng(3)
    labels = chance.integers(0, 3, 60)
    before, after = (np.eye(3)[labels] + chance.normal(0, noise, (60, 3)) for noise in (0.3, 0.9))
    compared = compare(load_metric("macro-f1", "classification"), before, after, labels)
    assert compared.interval.low < compared.difference < compared.interval.high < 0.0
