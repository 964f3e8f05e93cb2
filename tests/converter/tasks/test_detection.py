# SPDX-License-Identifier: Apache-2.0
"""Detectors from end to end: outputs told apart, quantized, scored by their boxes, searched, refused."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converter.core.detection import (
    Output,
    check_roles,
    detections,
    parse_roles,
    told_roles,
)
from converter.core.detection_metrics import (
    detection_distance,
    mean_average_precision,
    own_boxes,
    resampled_precision,
)
from converter.core.reports.confusion import detection_confusion
from edgefleet.contracts.bundle import open_bundle, pack
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.evidence import ConversionEvidence
from edgefleet.contracts.manifest import DetectionRole, TensorSpec

Command = Callable[..., subprocess.CompletedProcess[str]]


def output(name: str, *shape: int, dtype: str = "float32", signed: str = "") -> Output:
    return Output(TensorSpec(name=name, shape=shape, dtype=dtype), (name, signed) if signed else (name,))  # type: ignore[arg-type]


def convert(folder: Path, model: str, out: Path, *more: object, profile: str = "linux-x86_64") -> list[object]:
    return [
        "convert", folder / model, "--profile", profile, "--name", "squares", "--version", "1.0.0", "--task",
        "detection", "--calibration", folder / "calibration.npz", "--evaluation", folder / "labelled.npz",
        "--out", out, "--json", *more,
    ]  # fmt: skip


def evidence_of(done: subprocess.CompletedProcess[str]) -> ConversionEvidence:
    assert done.returncode == 0, done.stderr
    return msgspec.convert(json.loads(done.stdout)["evidence"], ConversionEvidence)


@pytest.mark.parametrize(
    ("outputs", "operator", "roles"),
    [
        ([output(f"StatefulPartitionedCall:{n}", 1, 1, 4) for n in range(4)], "TFLite_Detection_PostProcess",
         ("boxes", "classes", "scores", "count")),
        ([output("classes", 1, 9), output("num_boxes", 1), output("scores", 1, 9), output("boxes", 1, 9, 4)], None,
         ("classes", "count", "scores", "boxes")),
        ([output("a", 1, 9, 7), output("b", 1, 9, 4)], None, ("scores", "boxes")),
        ([output("a", 1, 9), output("b", 1, 9, 4)], None, ("scores", "boxes")),
        ([output("a", 1, 9, dtype="int64"), output("b", 1, 9), output("c", 1, 9, 4)], None,
         ("classes", "scores", "boxes")),
        ([output("Identity_2:0", 1, 9, signed="score"), output("b", 1, 9), output("c", 1, 9, 4)], None,
         ("scores", "classes", "boxes")),
        ([output("a", 1, 9, 4), output("b", 1, 9), output("n", 1, dtype="int32")], None, ("boxes", "scores", "count")),
    ],
)  # fmt: skip
def test_what_the_outputs_are_is_told(
    outputs: Sequence[Output], operator: str | None, roles: tuple[DetectionRole, ...]
) -> None:
    assert told_roles(outputs, operator) == roles
    if operator is None:
        check_roles(roles, [one.spec for one in outputs])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([output("a", 1, 9), output("b", 1, 9), output("c", 1, 9, 4)],
         "the model has the outputs 'a' [1, 9], 'b' [1, 9], 'c' [1, 9, 4], which do not tell which is which"),
        ([output("a", 1, 9, 4), output("b", 1, 9, 4)],
         "the model has the outputs 'a' [1, 9, 4], 'b' [1, 9, 4], which do not tell which is which"),
        ([output("a", 1, 10)], "the model has the output 'a' [1, 10], which are no detector's"),
        ([output("boxes", 1, 9, 4), output("scores", 1, 8)],
         "the model has the outputs 'boxes' [1, 9, 4], 'scores' [1, 8], which are no detector's"),
    ],
)  # fmt: skip
def test_outputs_that_do_not_tell_are_refused_once(outputs: Sequence[Output], message: str) -> None:
    with pytest.raises(InputError) as refused:
        told_roles(outputs, None)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boxes,what", "--outputs has 'what', expected one of boxes, classes, scores, count, other"),
        ("boxes,scores",
         "2 roles are named (boxes, scores), and the model has the outputs 'a' [1, 9, 4], 'b' [1, 9], 'c' [1, 9]"),
        ("boxes,scores,scores", "the role 'scores' is named twice"),
        ("boxes,classes,other", "no output of the model is the detector's scores"),
        ("scores,classes,boxes",
         "the outputs cannot be scores, classes, boxes: the model has the outputs 'a' [1, 9, 4], 'b' [1, 9], "
         "'c' [1, 9]"),
    ],
)  # fmt: skip
def test_roles_that_the_outputs_cannot_have(text: str, message: str) -> None:
    outputs = [output("a", 1, 9, 4).spec, output("b", 1, 9).spec, output("c", 1, 9).spec]
    with pytest.raises(InputError) as refused:
        check_roles(parse_roles(text), outputs)
    assert refused.value.message == message


def test_classes_that_went_through_a_scale_are_whole_again_and_other_outputs_are_left_out() -> None:
    rows = detections(
        [np.array([[[0, 0, 1, 1], [0, 0, 2, 2]]]), np.array([[2.98, 1.02]]), np.ones(7), np.array([[0.5, np.nan]])],
        ("boxes", "classes", "other", "scores"),
    )
    assert rows.tolist() == [[0, 0, 1, 1, 3, 0.5], [0, 0, 0, 0, -1, 0]]


def test_scores_of_each_class_say_the_class() -> None:
    boxes, scores = np.zeros((1, 2, 4)), np.array([[[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]])
    assert detections([scores, boxes], ("scores", "boxes"))[:, 4:].tolist() == [[1, 0.7], [0, 0.6]]


ROWS = arrays(np.float64, (3, 4, 6), elements=st.floats(0, 1))


@given(ROWS, st.permutations(range(4)))
def test_the_order_of_rows_is_no_distance(rows: np.ndarray, order: list[int]) -> None:
    rows[:, :, 4] = np.rint(rows[:, :, 4])
    rows[:, :, 2:4] = rows[:, :, :2] + 0.1 + rows[:, :, 2:4]
    assert detection_distance(rows, rows[:, order]) == pytest.approx(0.0, abs=1e-12)
    assert 0.0 <= detection_distance(rows, rows[::-1]) <= 1.0


def test_a_detection_of_another_class_or_place_is_apart() -> None:
    one = np.array([[[0, 0, 2, 2, 0, 0.8]]])
    other_class, half, none = one.copy(), one.copy(), np.array([[[0, 0, 0, 0, -1, 0.0]]])
    other_class[0, 0, 4], half[0, 0, 3] = 1, 1
    assert detection_distance(one, other_class) == detection_distance(one, none) == 1.0
    assert detection_distance(one, half) == pytest.approx(0.5)
    assert detection_distance(none, none) == 0.0


def test_drawing_each_picture_once_is_the_metric_itself() -> None:
    chance = np.random.default_rng(2)
    low = chance.uniform(0, 4, (12, 6, 2))
    outputs = np.concatenate(
        [low, low + chance.uniform(0.5, 2, (12, 6, 2)), chance.integers(0, 3, (12, 6, 1)), chance.random((12, 6, 1))],
        axis=2,
    )
    labels = own_boxes(outputs[:, ::-1] + np.array([0.1, 0.1, 0.1, 0.1, 0, 0.0]))
    picks = np.stack([np.arange(12), chance.integers(0, 12, 12), np.zeros(12, np.int64)])
    drawn = [mean_average_precision(outputs[pick], labels[pick]) for pick in picks]
    assert resampled_precision(outputs, labels, picks) == pytest.approx(drawn, abs=0.02)
    assert resampled_precision(outputs, labels, picks)[0] == drawn[0]


def test_confusion_of_boxes_counts_missed_and_invented_ones() -> None:
    rows = np.array([[[0, 0, 2, 2, 0, 0.9], [4, 4, 6, 6, 0, 0.8], [8, 8, 9, 9, 1, 0.7], [0, 0, 2, 2, 1, 0.4]]])
    boxes = np.array([[[0, 0, 2, 2, 0], [4, 4, 6, 6, 1], [20, 20, 21, 21, 0]]])
    found = detection_confusion(rows, boxes, ["cat", "dog"])
    assert found.counts == ((1, 0), (1, 0))
    assert [(c.label, c.samples, c.precision, c.recall) for c in found.classes] == [
        ("cat", 2, 0.5, 0.5),
        ("dog", 1, 0.0, 0.0),
    ]


def test_a_post_processed_detector_becomes_a_sound_bundle(
    detection_folder: Path, front_door: Command, tmp_path: Path
) -> None:
    evidence = evidence_of(front_door(*convert(detection_folder, "ssd.tflite", tmp_path, "--explain")))
    assert {layer.operator for layer in evidence.layers} == {"CONV_2D", "LOGISTIC"}
    path = tmp_path / "squares-1.0.0-linux-x86_64.bundle"
    manifest = open_bundle(path).manifest
    assert (manifest.task, manifest.metric, manifest.precision) == ("detection", "map50", "mixed")
    assert manifest.interface.roles == ("boxes", "classes", "scores", "count")
    assert manifest.tolerances.production >= 1.0  # another processor may order rows another way
    assert evidence.evaluation is not None
    assert evidence.comparison is not None
    assert evidence.confusion is not None
    assert (evidence.evaluation.metric, len(evidence.evaluation.per_class)) == ("map50", 2)
    assert evidence.evaluation.value >= 0.95
    assert abs(evidence.comparison.difference) <= 0.02
    assert (evidence.comparison.rank_correlation, evidence.comparison.mean_abs_delta < 0.02) == (None, True)
    assert evidence.comparison.top1_agreement is not None
    assert evidence.comparison.top1_agreement >= 0.95
    for number, row in enumerate(evidence.confusion.classes):
        assert row.recall == evidence.confusion.counts[number][number] / row.samples >= 0.5
    assert front_door("verify", path).returncode == 0
    scored = front_door("evaluate", path, detection_folder / "labelled.npz", "--json")
    assert json.loads(scored.stdout)["value"] == evidence.evaluation.value
    again = tmp_path / "again"
    assert front_door(*convert(detection_folder, "ssd.tflite", again)).returncode == 0
    assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "roles", [("boxes",), ("count", "boxes", "boxes", "other"), ("scores", "boxes", "count", "classes")]
)
def test_a_bundle_whose_roles_belie_its_model_is_refused(
    detection_folder: Path, front_door: Command, tmp_path: Path, float_recipe: Path, roles: tuple[DetectionRole, ...]
) -> None:
    words = convert(detection_folder, "ssd.tflite", tmp_path, "--recipe", float_recipe)
    assert front_door(*words).returncode == 0
    path = tmp_path / "squares-1.0.0-linux-x86_64.bundle"
    bundle = open_bundle(path)
    members = {name: bundle.read(name) for name in bundle.spans}
    interface = msgspec.structs.replace(bundle.manifest.interface, roles=roles)
    path.write_bytes(pack(msgspec.structs.replace(bundle.manifest, interface=interface), members))
    scored = front_door("evaluate", path, detection_folder / "labelled.npz")
    assert scored.returncode in (2, 3)
    assert scored.stderr.startswith("error: ")
    assert front_door("run", path, detection_folder / "one.npy", "--output", tmp_path / "o.npy").returncode in (0, 3)


def test_plain_outputs_need_names_or_an_option(detection_folder: Path, front_door: Command, tmp_path: Path) -> None:
    refused = front_door(*convert(detection_folder, "unnamed.tflite", tmp_path))
    assert (refused.returncode, json.loads(refused.stdout)["error"]["message"]) == (
        2,
        "the model has the outputs 'a' [1, 16, 4], 'b' [1, 16], 'c' [1, 16], which do not tell which is which",
    )
    assert not list(tmp_path.iterdir())
    named = ("--outputs", "boxes,classes,scores")
    evidence = evidence_of(front_door(*convert(detection_folder, "unnamed.tflite", tmp_path, *named)))
    manifest = open_bundle(tmp_path / "squares-1.0.0-linux-x86_64.bundle").manifest
    assert manifest.interface.roles == ("boxes", "classes", "scores")
    assert [spec.name for spec in manifest.interface.outputs] == ["a", "b", "c"]
    assert evidence.comparison is not None
    assert abs(evidence.comparison.difference) <= 0.05


def test_a_search_keeps_the_budget_of_detections_or_says_that_nothing_does(
    detection_folder: Path, front_door: Command, tmp_path: Path, plain_recipe: Path
) -> None:
    limits = ("--recipe", plain_recipe, "--max-accuracy-drop", "5pt", "--max-flash")
    evidence = evidence_of(front_door(*convert(detection_folder, "raw.tflite", tmp_path, *limits, "10kB")))
    assert next(one for one in evidence.candidates if one.chosen).drop <= 0.05
    broken = front_door(*convert(detection_folder, "raw.tflite", tmp_path / "none", *limits, "1kB"))
    assert broken.returncode == 3
    assert "breaks 1: the model's size is" in json.loads(broken.stdout)["error"]["message"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((120, 4)), "bad.npz has labels of float64 with shape [120, 4], expected boxes [samples, boxes, 5]"),
        (np.full((120, 1, 5), 0.5),
         "bad.npz has boxes whose last column is no class, expected whole numbers from -1 to 9999"),
        (np.tile([5.0, 5.0, 1.0, 1.0, 0.0], (120, 1, 1)), "bad.npz has boxes that end before they begin"),
        (np.full((120, 1, 5), -1.0),
         "the metric 'map50' of the samples is nan, not a number that can be compared"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_right(
    detection_folder: Path, front_door: Command, tmp_path: Path, float_recipe: Path, y: np.ndarray, message: str
) -> None:
    with np.load(detection_folder / "labelled.npz") as stored:
        np.savez(tmp_path / "bad.npz", x=stored["x"], y=y)
    model = detection_folder / "raw.tflite"
    done = front_door(
        "convert", model, "--profile", "linux-x86_64", "--name", "n", "--version", "1.0.0", "--task", "detection",
        "--recipe", float_recipe, "--evaluation", tmp_path / "bad.npz", "--out", tmp_path / "out",
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, f"error: {message}")
    assert not (tmp_path / "out").exists()
