# SPDX-License-Identifier: Apache-2.0
"""Anomalies, regression and tables from end to end, several inputs and outputs by name, budgets that are kept."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from converter.adapters.user_code.metrics import own_metric
from converter.core.scoring import Metric, compare, default_metric, interval, squared_error, task_metrics, whole_drop
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.errors import ModelFailedError, SampleError
from edgefleet.contracts.evidence import ConversionEvidence, FloatComparison, Interval

Command = Callable[..., subprocess.CompletedProcess[str]]
INTERVAL = Interval(low=-0.1, high=0.1, level=0.95, method="paired")


def convert(model: Path, task: str, out: Path, *more: object) -> list[object]:
    return [
        "convert", model, "--profile", "linux-x86_64", "--name", "made", "--version", "1.0.0", "--task", task,
        "--out", out, "--json", *more,
    ]  # fmt: skip


def samples(folder: Path, calibration: str, evaluation: str) -> list[object]:
    return ["--calibration", folder / calibration, "--evaluation", folder / evaluation]


def evidence_of(done: subprocess.CompletedProcess[str]) -> ConversionEvidence:
    assert done.returncode == 0, done.stdout + done.stderr
    return msgspec.convert(json.loads(done.stdout)["evidence"], ConversionEvidence)


def test_what_an_answer_cannot_say_is_absent_from_the_evidence() -> None:
    plain = FloatComparison(float_value=1.0, difference=0.0, interval=INTERVAL, mean_abs_delta=0.0)
    written = json.loads(canonical_json(plain))
    assert sorted(written) == ["difference", "float_value", "interval", "mean_abs_delta"]
    old = {**written, "top1_agreement": 0.5}
    assert msgspec.json.decode(json.dumps(old), type=FloatComparison).top1_agreement == 0.5


def test_each_task_compares_with_float_by_what_its_answers_are() -> None:
    before, labels = np.arange(8.0), np.array([0, 0, 1, 0, 1, 1, 1, 1])
    anomaly = compare(default_metric("anomaly"), before, before[::-1] * 2.0, labels, task="anomaly")
    assert (anomaly.top1_agreement, anomaly.rank_correlation) == (None, -1.0)
    same = compare(default_metric("anomaly"), before, np.exp(before), labels, task="anomaly")
    assert (same.rank_correlation, same.difference) == (1.0, 0.0)
    flat = compare(default_metric("anomaly"), before, np.zeros(8), labels, task="anomaly")
    assert flat.rank_correlation is None
    value = compare(default_metric("regression"), before, before + 1.0, before, task="regression")
    assert (value.top1_agreement, value.rank_correlation, value.difference) == (None, None, 1.0)


def test_a_drop_of_an_error_is_a_share_of_what_their_mean_would_err() -> None:
    targets = np.array([[1.0], [3.0], [5.0], [7.0]])
    assert {m.name: whole_drop(m, targets) for m in task_metrics("regression")} == pytest.approx(
        {"mse": 5.0, "mae": 2.0, "rmse": 5.0**0.5, "r2": 1.0}
    )
    with pytest.raises(SampleError) as refused:
        whole_drop(default_metric("regression"), np.ones((4, 1)))
    assert refused.value.message == "the targets do not vary, so that no drop of 'mse' can be told from them"


def test_a_metric_that_is_no_number_is_not_compared() -> None:
    with pytest.raises(SampleError) as refused:
        compare(default_metric("anomaly"), np.arange(3.0), np.arange(3.0), np.zeros(3, np.int64), task="anomaly")
    assert refused.value.message == (
        "the metric 'auc' is nan of the float model and nan of the converted one, which cannot be compared"
    )


def test_a_converted_model_that_answers_nan_is_refused() -> None:
    with pytest.raises(ModelFailedError) as refused:
        compare(default_metric("regression"), np.ones(3), np.array([1.0, np.nan, 1.0]), np.ones(3), task="regression")
    assert refused.value.message == (
        "the converted model answers 1 of 3 evaluation samples with NaN or infinity, and the float model does not"
    )


def test_a_narrower_level_gives_a_narrower_interval() -> None:
    chance = np.random.default_rng(1)
    targets, noise = chance.normal(size=(80, 1)), chance.normal(0, 0.2, (80, 1))
    wide, narrow = (
        interval(Metric("mse", squared_error), targets, targets + noise, targets, level=level) for level in (0.95, 0.8)
    )
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (wide.level, narrow.level) == (0.95, 0.8)


def test_an_error_of_ones_own_says_that_smaller_is_better() -> None:
    def off(outputs: np.ndarray, labels: np.ndarray) -> float:
        return float(np.abs(outputs - labels).max())

    assert own_metric("m:off", off).larger_is_better
    off.larger_is_better = False  # type: ignore[attr-defined]
    assert not own_metric("m:off", off).larger_is_better


def test_scores_of_anomalies_keep_their_order(anomaly_folder: Path, front_door: Command, tmp_path: Path) -> None:
    given = samples(anomaly_folder, "calibration.npz", "labelled.npz")
    evidence = evidence_of(front_door(*convert(anomaly_folder / "model.tflite", "anomaly", tmp_path, *given)))
    compared = evidence.comparison
    assert compared is not None
    assert compared.rank_correlation is not None
    assert compared.rank_correlation >= 0.99
    assert (compared.top1_agreement, evidence.confusion) == (None, None)
    assert compared.float_value >= 0.9
    assert abs(compared.difference) <= 0.02
    bom = json.loads((tmp_path / "made-1.0.0-linux-x86_64.mlbom.json").read_bytes())
    figures = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "rank correlation with float", "value": repr(compared.rank_correlation), "slice": "evaluation"} in (
        figures
    )


def test_what_is_told_of_anomalies_on_the_terminal(
    anomaly_folder: Path, front_door: Command, tmp_path: Path, plain_recipe: Path
) -> None:
    given = samples(anomaly_folder, "calibration.npz", "labelled.npz")
    words = convert(anomaly_folder / "model.tflite", "anomaly", tmp_path, *given, "--recipe", plain_recipe)
    words.remove("--json")
    line = next(line for line in front_door(*words).stdout.splitlines() if line.startswith("against float"))
    assert ", rank correlation 0.99" in line
    assert "top-1" not in line


@pytest.mark.parametrize("model", ["anomaly", "regression"])
def test_a_budget_that_no_candidate_keeps_is_refused_and_nothing_is_written(
    anomaly_folder: Path, regression_folder: Path, front_door: Command, tmp_path: Path, plain_recipe: Path, model: str
) -> None:
    out = tmp_path / "out"
    limits = ("--recipe", plain_recipe, "--max-flash")
    if model == "anomaly":
        given = samples(anomaly_folder, "calibration.npz", "labelled.npz")
        words = convert(anomaly_folder / "model.tflite", "anomaly", out, *given, *limits)
    else:
        given = samples(regression_folder, "by_name.npz", "labelled_by_name.npz")
        words = convert(regression_folder / "regressor.tflite", "regression", out, *given, *limits)
    kept = evidence_of(front_door(*words, "100kB", "--max-accuracy-drop", "10pt"))
    chosen = next(one for one in kept.candidates if one.chosen)
    assert chosen.drop <= 0.1
    for path in out.iterdir():
        path.unlink()
    # int4 throughout is the only precision that fits here, and it is too coarse for any of both
    none = front_door(
        *words, str(min(one.model_bytes for one in kept.candidates) - 1), "--max-accuracy-drop", "0.0001pt"
    )
    assert none.returncode == 3, none.stdout
    assert json.loads(none.stdout)["error"]["code"] == "budget-broken"
    assert not list(out.iterdir())


def test_several_inputs_and_outputs_go_by_name(regression_folder: Path, front_door: Command, tmp_path: Path) -> None:
    given = samples(regression_folder, "by_name.npz", "labelled_by_name.npz")
    evidence = evidence_of(front_door(*convert(regression_folder / "regressor.tflite", "regression", tmp_path, *given)))
    path = tmp_path / "made-1.0.0-linux-x86_64.bundle"
    manifest = open_bundle(path).manifest
    assert [(spec.name, spec.shape) for spec in manifest.interface.inputs] == [("column", (1, 5)), ("extra", (1, 2))]
    assert [(spec.name, spec.shape) for spec in manifest.interface.outputs] == [("value", (1, 1)), ("spare", (1, 3))]
    assert len(manifest.parity.inputs) == len(manifest.parity.outputs) == 2
    assert evidence.evaluation is not None
    assert (evidence.evaluation.metric, evidence.evaluation.value < 0.1) == ("mse", True)
    assert front_door("verify", path).returncode == 0
    scored = front_door("evaluate", path, regression_folder / "labelled_by_name.npz", "--json")
    assert json.loads(scored.stdout)["value"] == evidence.evaluation.value
    with np.load(regression_folder / "by_name.npz") as stored:
        np.savez(tmp_path / "half.npz", column=stored["column"])
    lacking = front_door(
        *convert(regression_folder / "regressor.tflite", "regression", tmp_path, "--calibration", tmp_path / "half.npz")
    )
    assert lacking.returncode == 3
    assert json.loads(lacking.stdout)["error"]["message"] == "half.npz has no array 'extra', only ['column']"


def test_a_metric_of_ones_own_is_kept_by_name(
    regression_folder: Path, front_door: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_recipe: Path
) -> None:
    (tmp_path / "own_metric_of_a_test.py").write_text(
        "def near(outputs, labels):\n    return float((abs(outputs - labels) < 0.2).mean())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = samples(regression_folder, "by_name.npz", "labelled_by_name.npz")
    own = ("--metric", "own_metric_of_a_test:near", "--recipe", plain_recipe)
    model = regression_folder / "regressor.tflite"
    evidence = evidence_of(front_door(*convert(model, "regression", tmp_path, *given, *own)))
    assert evidence.evaluation is not None
    assert (evidence.evaluation.metric, evidence.evaluation.value > 0.9) == ("own_metric_of_a_test:near", True)
    bundle = tmp_path / "made-1.0.0-linux-x86_64.bundle"
    scored = front_door("evaluate", bundle, regression_folder / "labelled_by_name.npz", *own[:2], "--json")
    assert json.loads(scored.stdout)["value"] == evidence.evaluation.value


def test_rows_of_a_table_become_inputs_column_by_column(
    regression_folder: Path, front_door: Command, tmp_path: Path
) -> None:
    given = [
        *samples(regression_folder, "rows.csv", "labelled.csv"),
        "--preprocessing",
        regression_folder / "columns.toml",
    ]
    model = regression_folder / "table.tflite"
    evidence = evidence_of(front_door(*convert(model, "regression", tmp_path, *given)))
    assert evidence.evaluation is not None
    assert evidence.evaluation.value < 0.05
    bundle = tmp_path / "made-1.0.0-linux-x86_64.bundle"
    assert open_bundle(bundle).manifest.preprocessing.features is not None
    scored = front_door("evaluate", bundle, regression_folder / "labelled.csv", "--metric", "r2", "--json")
    assert json.loads(scored.stdout)["value"] > 0.9


@pytest.mark.parametrize(
    ("rows", "toml", "status", "message"),
    [
        ("a,b\n1,2\n", "[features]\nmean = [0.0, 0.0]\ndeviation = [1.0, 1.0]\n", 2,
         "the preprocessing makes inputs of shape [1, 2], the model's input 'row' has [1, 5]"),
        ("a,b\n1,2\n", "[features]\nmean = [0.0, 0.0, 0.0, 0.0, 0.0]\ndeviation = [1.0, 1.0, 1.0, 1.0, 1.0]\n", 3,
         "t.csv: a row is an array of float64 with shape [2], expected 5 numbers"),
        ("a,b\n1,2\n", "", 3, "t.csv: a sample of input 'row' has shape [2], the model expects [1, 5]"),
    ],
)  # fmt: skip
def test_tables_of_other_columns(
    regression_folder: Path, front_door: Command, tmp_path: Path, rows: str, toml: str, status: int, message: str
) -> None:
    (tmp_path / "t.csv").write_text(rows)
    (tmp_path / "how.toml").write_text(toml)
    given = ("--calibration", tmp_path / "t.csv", "--preprocessing", tmp_path / "how.toml")
    done = front_door(*convert(regression_folder / "table.tflite", "regression", tmp_path / "out", *given))
    assert (done.returncode, json.loads(done.stdout)["error"]["message"]) == (status, message)
