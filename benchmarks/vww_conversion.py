# SPDX-License-Identifier: Apache-2.0
"""Visual wake words to int8: EdgeFleet against TensorFlow's converter, on the same pictures, in the same call.

    python -m benchmarks.vww_conversion --tensorflow-python PATH [--repeats 3]

PATH is a Python with tensorflow-cpu, tf-keras and pillow (or EDGEFLEET_TENSORFLOW_PYTHON names it); without one the
benchmark is skipped. Prints ratios of wall time and peak memory, and how far each model's answers lie from the float
model's on the evaluation pictures, which neither converter saw.
"""

import argparse
import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, SHARED, Cost, cost_of, median, skip, write
from converter.adapters.running.execution import predict
from converter.adapters.samples.sets import SampleSet, model_inputs, open_samples
from converter.core.scoring import compare, default_metric
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.runtimes.litert import LiteRtInterpreter

_PREPROCESSING = '[image]\nsize = [96, 96]\nchannels = "BGR"\nscale = 0.00392156862745098\noffset = 0.0\n'
_MODELS = SHARED / "models"
_PICTURES = SHARED / "data" / "vww"
_MIB = 1 << 20


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        folder = Path(name)
        (folder / "bgr.toml").write_text(_PREPROCESSING)
        ours = [_convert(folder, folder / f"dist{n}", _PICTURES / "calibration") for n in range(options.repeats)]
        bundles = {sha256_file(_bundle(folder / f"dist{n}")) for n in range(options.repeats)}
        _convert(folder, folder / "shuffled", _shuffled_copy(folder))
        bundles.add(sha256_file(_bundle(folder / "shuffled")))
        theirs = [_tensorflow(options.tensorflow_python, folder) for _ in range(options.repeats)]
        (folder / "ours.tflite").write_bytes(open_bundle(_bundle(folder / "dist0")).read("model/model.tflite"))
        write("vww_conversion", _document(folder, median(ours), median(theirs), bundles))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorflow-python", default=os.environ.get("EDGEFLEET_TENSORFLOW_PYTHON"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if not options.tensorflow_python:
        skip("name a Python that has TensorFlow: --tensorflow-python PATH or EDGEFLEET_TENSORFLOW_PYTHON")
    if not (_MODELS / "vww_96.h5").is_file():
        skip(f"no vww_96.h5 in {_MODELS} (set EDGEFLEET_SHARED)")
    return options


def _convert(folder: Path, out: Path, calibration: Path) -> Cost:
    program = Path(sys.executable).with_name("edgefleet")
    return cost_of(
        [
            program, "convert", _MODELS / "vww_float32.tflite", "--profile", "raspberry-pi-4", "--name", "person",
            "--version", "1.0.0", "--calibration", calibration, "--preprocessing", folder / "bgr.toml", "--out", out,
        ]
    )  # fmt: skip


def _tensorflow(python: str, folder: Path) -> Cost:
    script = ROOT / "benchmarks" / "tensorflow_baseline.py"
    command = [python, script, _MODELS / "vww_96.h5", _PICTURES / "calibration", folder / "theirs.tflite"]
    return cost_of(command, env={"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})


def _bundle(folder: Path) -> Path:
    return folder / "person-1.0.0-raspberry-pi-4.bundle"


def _shuffled_copy(folder: Path) -> Path:
    """Return a copy of the calibration pictures, renamed and in reversed order."""
    copy = folder / "shuffled-pictures"
    copy.mkdir()
    with (_PICTURES / "calibration" / "labels.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    with (copy / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for number, (name, label) in enumerate(reversed(rows)):
            shutil.copy(_PICTURES / "calibration" / name, copy / f"{number}.jpg")
            writer.writerow([f"{number}.jpg", label])
    return copy


def _document(folder: Path, ours: Cost, theirs: Cost, bundles: set[str]) -> dict[str, Any]:
    samples = open_samples(_PICTURES / "evaluation", ["input_1"])
    before = _answers(_MODELS / "vww_float32.tflite", samples)
    mine, other = _quality(folder / "ours.tflite", samples, before), _quality(folder / "theirs.tflite", samples, before)
    return {
        "baseline": "TensorFlow's TFLiteConverter, Keras to int8, same 100 calibration pictures",
        "wall_time_ratio": round(ours.wall_s / theirs.wall_s, 3),
        "peak_memory_ratio": round(ours.peak_bytes / theirs.peak_bytes, 3),
        "mean_abs_delta_ratio": round(mine["mean_abs_delta"] / other["mean_abs_delta"], 3),
        "same_bundle_from_all_processes_and_orders": len(bundles) == 1,
        "edgefleet": {**_cost(ours), **mine},
        "tensorflow": {**_cost(theirs), **other},
    }


def _cost(cost: Cost) -> dict[str, float]:
    return {
        "wall_s": round(cost.wall_s, 2),
        "cpu_s": round(cost.cpu_s, 2),
        "peak_mib": round(cost.peak_bytes / _MIB, 1),
    }


def _answers(model: Path, samples: SampleSet) -> np.ndarray:
    interpreter = LiteRtInterpreter(model.read_bytes())
    how = decode_toml(_PREPROCESSING.encode(), Preprocessing, source="preprocessing")
    return predict(interpreter, model_inputs(samples, range(len(samples)), how, interpreter.inputs), "classification")


def _quality(model: Path, samples: SampleSet, before: np.ndarray) -> dict[str, Any]:
    assert samples.labels is not None
    compared = compare(default_metric("classification"), before, _answers(model, samples), samples.labels)
    return {
        "model_bytes": model.stat().st_size,
        "float_accuracy": compared.float_value,
        "accuracy": round(compared.float_value + compared.difference, 6),
        "difference_95": [round(compared.interval.low, 4), round(compared.interval.high, 4)],
        "top1_agreement": compared.top1_agreement,
        "mean_abs_delta": compared.mean_abs_delta,
    }


if __name__ == "__main__":
    main()
