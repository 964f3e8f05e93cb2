# SPDX-License-Identifier: Apache-2.0
"""Where models and samples come from: pictures in folders, several inputs by name, Keras files."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator, BuiltinOptions, LogSoftmaxOptionsT
from ai_edge_litert.tools import flatbuffer_utils
from PIL import Image

from converter.adapters.flatbuffers.reading import read_model
from converter.adapters.samples.sets import canonical_order, open_samples, sample_set_sha256
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import SampleError

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENSORFLOW = "EDGEFLEET_TENSORFLOW_PYTHON"
Command = Callable[..., subprocess.CompletedProcess[str]]


def write_pictures(folder: Path, x: np.ndarray, y: np.ndarray) -> Path:
    """Write digits as grey PNGs, labelled by class names."""
    folder.mkdir()
    rows = ["file,label"]
    for number, (pixels, label) in enumerate(zip(x, y, strict=True)):
        Image.fromarray(pixels[:, :, 0] * 15, "L").save(folder / f"{number}.png")
        rows.append(f"{number}.png,{NAMES[label]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    with np.load(DIGITS / "digits.npz") as stored:
        write_pictures(folder / "calibration", stored["calibration_x"], stored["calibration_y"])
        write_pictures(folder / "live", stored["live_x"][:100], stored["live_y"][:100])
    (folder / "names.txt").write_text("\n".join(NAMES))
    (folder / "grey.toml").write_text(f'[image]\nsize = [8, 8]\nchannels = "GRAY"\nscale = {1 / 15!r}\noffset = 0.0\n')
    return folder


def test_pictures_are_preprocessed_as_the_bundle_says(front_door: Command, pictures: Path, tmp_path: Path) -> None:
    done = front_door(
        "convert", DIGITS / "v1_float32.tflite", "--name", "digits", "--version", "1.0.0",
        "--profile", "raspberry-pi-4",
        "--calibration", pictures / "calibration", "--evaluation", pictures / "live", "--acceptance", pictures / "live",
        "--labels", pictures / "names.txt", "--preprocessing", pictures / "grey.toml", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evidence = json.loads(done.stdout)["evidence"]
    assert evidence["evaluation"]["value"] >= 0.95
    assert evidence["acceptance"]["value"] == evidence["evaluation"]["value"]
    bundle = tmp_path / "digits-1.0.0-raspberry-pi-4.bundle"
    manifest = open_bundle(bundle).manifest
    assert manifest.interface.labels == tuple(NAMES)
    assert manifest.preprocessing.image is not None
    assert manifest.preprocessing.image.channels == "GRAY"
    assert front_door("verify", bundle, "--profile", "raspberry-pi-4").returncode == 0
    again = front_door("evaluate", bundle, pictures / "live", "--json")
    assert json.loads(again.stdout)["value"] == evidence["evaluation"]["value"]


def test_a_set_of_pictures_is_known_by_its_content(pictures: Path, tmp_path: Path) -> None:
    with np.load(DIGITS / "digits.npz") as stored:
        x, y = stored["calibration_x"], stored["calibration_y"]
    turned = write_pictures(tmp_path / "turned", x[::-1], y[::-1])
    other = write_pictures(tmp_path / "other", x[::-1], np.roll(y, 1))
    first, same, another = (
        open_samples(folder, ["frame"], NAMES) for folder in (pictures / "calibration", turned, other)
    )
    assert sample_set_sha256(first) == sample_set_sha256(same) != sample_set_sha256(another)
    for a, b in zip(canonical_order(first), canonical_order(same), strict=True):
        assert np.array_equal(first.raw(a)[0], same.raw(b)[0])


def test_several_inputs_are_found_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", right=np.ones((3, 2)), left=np.zeros((3, 5)), y=np.arange(3))
    samples = open_samples(tmp_path / "s.npz", ["left", "right"])
    assert [value.shape for value in samples.raw(1)] == [(5,), (2,)]


def test_an_input_may_be_named_like_the_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.ones((3, 2)), y=np.zeros((3, 5)))
    samples = open_samples(tmp_path / "s.npz", ["x", "y"])
    assert [value.shape for value in samples.raw(1)] == [(2,), (5,)]
    assert samples.labels is None


def test_a_listing_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    (folder / "labels.csv").write_text("file,label\n../secret.png,0\n")
    with pytest.raises(SampleError) as caught:
        open_samples(folder, ["x"])
    assert caught.value.message == "'pictures/labels.csv' names '../secret.png', which is no file of the folder"


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"not a picture")
    (folder / "labels.csv").write_text("file,label\na.png,0\n")
    with pytest.raises(SampleError) as caught:
        open_samples(folder, ["x"]).raw(0)
    assert caught.value.message == "pictures: 'a.png' is not a readable picture"


def test_a_file_with_operator_codes_of_the_old_kind_is_quantized_as_what_it_is(
    front_door: Command, tmp_path: Path
) -> None:
    model = read_model((DIGITS / "v1_float32.tflite").read_bytes())
    for code in model.operatorCodes:
        assert code.builtinCode == code.deprecatedBuiltinCode
        code.builtinCode = 0
    (tmp_path / "old.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(tmp_path / "c.npz", x=stored["calibration_x"], y=stored["calibration_y"])
    models = []
    for path in (tmp_path / "old.tflite", DIGITS / "v1_float32.tflite"):
        done = front_door(
            "convert", path, "--profile", "linux-x86_64", "--name", "old", "--version", "1.0.0",
            "--calibration", tmp_path / "c.npz", "--out", tmp_path / path.stem,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        models.append(open_bundle(tmp_path / path.stem / "old-1.0.0-linux-x86_64.bundle").read("model/model.tflite"))
    assert models[0] == models[1]


def test_a_file_without_signatures_may_end_in_an_operator_that_stays_in_float(
    front_door: Command, tmp_path: Path
) -> None:
    model = read_model((DIGITS / "v1_float32.tflite").read_bytes())
    model.signatureDefs = None
    last = model.subgraphs[0].operators[-1]
    code = model.operatorCodes[last.opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = BuiltinOperator.LOG_SOFTMAX
    last.builtinOptions, last.builtinOptionsType = LogSoftmaxOptionsT(), BuiltinOptions.LogSoftmaxOptions
    (tmp_path / "m.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(tmp_path / "c.npz", x=stored["calibration_x"])
    done = front_door(
        "convert", tmp_path / "m.tflite", "--profile", "linux-x86_64", "--name", "log", "--version", "1.0.0",
        "--calibration", tmp_path / "c.npz", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("note: computed in float, not in integers: LOG_SOFTMAX\n")
    made = open_bundle(tmp_path / "log-1.0.0-linux-x86_64.bundle").read("model/model.tflite")
    assert read_model(made).signatureDefs is None


def test_a_model_without_outputs(front_door: Command, tmp_path: Path) -> None:
    model = read_model((DIGITS / "v1_float32.tflite").read_bytes())
    model.signatureDefs = None
    model.subgraphs[0].outputs = []
    (tmp_path / "m.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    done = front_door("inspect", tmp_path / "m.tflite")
    assert (done.returncode, done.stderr) == (3, "error: the model has no outputs\nhint: export the model again\n")


@pytest.fixture
def tensorflow_python() -> str:
    named = os.environ.get(TENSORFLOW)
    if named is None and importlib.util.find_spec("tensorflow") is None:
        pytest.skip(f"needs TensorFlow: install the extra 'tensorflow', or set {TENSORFLOW}")
    return named or sys.executable


def test_a_keras_file_becomes_a_float_model(
    front_door: Command, shared_dir: Path, tensorflow_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TENSORFLOW, tensorflow_python)
    done = front_door("inspect", shared_dir / "models" / "ic_resnet8.h5", "--json")
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["model"]
    assert (model["precision"], len(model["operators"])) == ("float32", 15)
    assert "tensorflow" not in sys.modules


def test_a_file_that_keras_cannot_read_is_told_in_a_sentence(
    front_door: Command, tensorflow_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TENSORFLOW, tensorflow_python)
    (tmp_path / "m.h5").write_bytes(b"junk")
    done = front_door("inspect", tmp_path / "m.h5")
    assert done.returncode == 3
    assert done.stderr.startswith("error: the Keras file 'm.h5' cannot be converted: OSError: ")
    assert done.stderr.count("\n") == 2
