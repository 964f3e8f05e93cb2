# SPDX-License-Identifier: Apache-2.0
"""The reference model of a real task: pictures in, a bundle for a Raspberry Pi out, as good as the float model."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PREPROCESSING = '[image]\nsize = [96, 96]\nchannels = "BGR"\nscale = 0.00392156862745098\noffset = 0.0\n'
Command = Callable[..., subprocess.CompletedProcess[str]]
#: What TensorFlow's own converter loses on these pictures (benchmarks/vww_conversion.py measures it again).
TENSORFLOW_MEAN_ABS_DELTA = 0.0122


@pytest.fixture(scope="module")
def conversion(
    converter_command: Command, shared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("vww")
    return convert(converter_command, shared_dir, folder, shared_dir / "data" / "vww" / "calibration")


def convert(command: Command, shared: Path, folder: Path, calibration: Path) -> dict[str, object]:
    (folder / "bgr.toml").write_text(PREPROCESSING)
    done = command(
        "convert", shared / "models" / "vww_float32.tflite", "--profile", "raspberry-pi-4", "--name", "person",
        "--version", "1.0.0", "--calibration", calibration, "--evaluation", shared / "data" / "vww" / "evaluation",
        "--preprocessing", folder / "bgr.toml", "--out", folder / "dist", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_the_bundle_is_as_good_as_the_float_model(conversion: dict[str, object]) -> None:
    evidence = conversion["evidence"]
    assert isinstance(evidence, dict)
    compared = evidence["comparison"]
    assert compared["float_value"] == pytest.approx(0.864)
    assert compared["interval"]["low"] <= 0.0 <= compared["interval"]["high"]
    assert compared["top1_agreement"] >= 0.97
    assert compared["mean_abs_delta"] <= TENSORFLOW_MEAN_ABS_DELTA
    assert evidence["model_bytes"] < 0.37 * evidence["float_model_bytes"]


def test_renamed_pictures_in_another_order_give_the_same_bytes(
    converter_command: Command, shared_dir: Path, conversion: dict[str, object], tmp_path: Path
) -> None:
    source = shared_dir / "data" / "vww" / "calibration"
    with (source / "labels.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    folder = tmp_path / "renamed"
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for number, (name, label) in enumerate(reversed(rows)):
            shutil.copy(source / name, folder / f"{number}.jpg")
            writer.writerow([f"{number}.jpg", label])
    again = convert(converter_command, shared_dir, tmp_path, folder)
    assert again["sha256"] == conversion["sha256"]
