# SPDX-License-Identifier: Apache-2.0
"""What cannot be used is told in one sentence with a remedy and the documented status, and nothing is written."""

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator
from ai_edge_litert.tools import flatbuffer_utils
from PIL import Image

from converter.adapters.flatbuffers.reading import read_model
from converter.adapters.imports.model_files import MODEL_LIMIT_BYTES
from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES, open_bundle, pack
from edgefleet.contracts.profile import compat_hash
from firmware_profiles import list_profiles, load_profile

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
BOARDS = ROOT / "firmware_profiles" / "boards"
Command = Callable[..., subprocess.CompletedProcess[str]]
MODEL_HINT = "give a .tflite file, or a Keras file (.keras, .h5) with the extra 'tensorflow'"
BUNDLE_HINT = "use a bundle written by 'edgefleet convert', and fetch it again if it was copied"
SAMPLES_HINT = (
    "give a folder of pictures or .wav files with labels.csv (file,label), an .npz with 'x' (and 'y'), "
    "an .npy, a .csv, or module:function"
)


def without_log(stderr: str) -> str:
    """Leave out what LiteRT itself logs."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("INFO: "))


def told(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    return done.returncode, without_log(done.stderr)


def sentence(message: str, hint: str) -> str:
    return f"error: {message}\nhint: {hint}\n"


def convert(command: Command, out: Path, model: Path, *more: object) -> subprocess.CompletedProcess[str]:
    named = {str(option): option for option in more[::2]}
    defaults = [("--profile", "linux-x86_64"), ("--name", "digits"), ("--version", "1.0.0"), ("--out", out)]
    return command("convert", model, *(part for pair in defaults if pair[0] not in named for part in pair), *more)


def test_a_missing_model(front_door: Command, tmp_path: Path) -> None:
    path = tmp_path / "no.tflite"
    assert told(convert(front_door, tmp_path / "dist", path)) == (
        2,
        sentence(f"cannot read the model '{path}': No such file or directory", "check the path and its permissions"),
    )


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "'m.tflite' is empty, not a model", MODEL_HINT),
        (b"PK\3\4 a zip", "'m.tflite' is not a TFLite model: it lacks the mark 'TFL3'", MODEL_HINT),
    ],
)
def test_a_file_that_is_no_model(front_door: Command, tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    (tmp_path / "m.tflite").write_bytes(content)
    done = convert(front_door, tmp_path / "dist", tmp_path / "m.tflite")
    assert told(done) == (3, sentence(message, hint))
    assert not (tmp_path / "dist").exists()


def test_a_truncated_model(front_door: Command, tmp_path: Path) -> None:
    whole = (DIGITS / "v1_float32.tflite").read_bytes()
    (tmp_path / "m.tflite").write_bytes(whole[: len(whole) // 2])
    status, message = told(convert(front_door, tmp_path / "dist", tmp_path / "m.tflite"))
    assert status == 3
    assert message.startswith("error: LiteRT cannot load the model: The model is not a valid Flatbuffer buffer\nhint: ")
    assert not (tmp_path / "dist").exists()


def test_an_oversized_model(front_door: Command, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.touch()
    os.truncate(path, MODEL_LIMIT_BYTES + 1)  # sparse: takes no room
    assert told(convert(front_door, tmp_path / "dist", path)) == (
        3,
        sentence(
            f"'m.tflite' is {MODEL_LIMIT_BYTES + 1} bytes, over the limit of {MODEL_LIMIT_BYTES}",
            "models for edge devices are smaller: check that this is the model",
        ),
    )


def test_an_operator_that_the_board_does_not_run(front_door: Command, tmp_path: Path) -> None:
    done = convert(
        front_door, tmp_path / "dist", DIGITS / "v3_float32.tflite",
        "--profile", "mps2-an386", "--recipe", DIGITS / "float32.toml",
    )  # fmt: skip
    assert told(done) == (
        3,
        sentence(
            "the model has the operator DIV, which profile 'mps2-an386' does not run",
            "choose another profile, or train the model without it",
        ),
    )
    assert not (tmp_path / "dist").exists()


def altered(tmp_path: Path, operator: int, **changes: object) -> Path:
    """Write v1 with some fields of one operator's code changed."""
    model = read_model((DIGITS / "v1_float32.tflite").read_bytes())
    [code] = [code for code in model.operatorCodes if code.builtinCode == operator]
    for field, value in changes.items():
        setattr(code, field, value)
    path = tmp_path / "m.tflite"
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path


def test_a_custom_operator_is_named(front_door: Command, tmp_path: Path) -> None:
    custom = BuiltinOperator.CUSTOM
    model = altered(
        tmp_path, BuiltinOperator.SOFTMAX, builtinCode=custom, deprecatedBuiltinCode=custom, customCode=b"MyOperator"
    )
    assert told(convert(front_door, tmp_path / "dist", model)) == (
        3,
        sentence(
            "the model has the custom operator 'MyOperator', which no profile's runtime has",
            "export the model with TFLite's built-in operators only",
        ),
    )


def test_an_operator_version_that_the_runtime_does_not_know_is_named(front_door: Command, tmp_path: Path) -> None:
    status, message = told(
        convert(front_door, tmp_path / "dist", altered(tmp_path, BuiltinOperator.SOFTMAX, version=99))
    )
    assert status == 3
    assert message.startswith(
        "error: LiteRT cannot load the model: Didn't find op for builtin opcode 'SOFTMAX' version '99'."
    )
    assert message.count("\n") == 2


def test_a_precision_that_the_board_does_not_run(front_door: Command, tmp_path: Path) -> None:
    done = convert(
        front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite",
        "--profile", "mps2-an386", "--recipe", DIGITS / "float32.toml",
    )  # fmt: skip
    assert told(done) == (
        3,
        sentence(
            "the model computes in float32; profile 'mps2-an386' runs int8, int4, int16x8, mixed",
            "choose another recipe or profile, or train the model without that operator",
        ),
    )


def test_calibration_samples_of_a_wrong_shape(front_door: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.zeros((10, 28, 28, 1), np.float32))
    done = convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", "--calibration", tmp_path / "c.npz")
    assert told(done) == (
        3,
        sentence(
            "c.npz: a sample of input 'frame' has shape [28, 28, 1], the model expects [1, 8, 8, 1]",
            "check the samples, or name a preprocessing file with --preprocessing",
        ),
    )
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("file", "arrays", "message"),
    [
        ("c.npz", {"z": np.zeros(3)}, "c.npz has no array 'frame', only ['z']"),
        ("c.npz", {"x": np.zeros((3, 8, 8, 1)), "y": np.zeros(2)},
         "c.npz has arrays of different or no length: {'x': 3, 'y': 2}"),
        ("c.txt", None, "'c.txt' is neither a folder nor an .npz, .npy or .csv file"),
        ("c.npz", None, "c.npz is not a readable .npz: it is no zip file"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_read(
    front_door: Command, tmp_path: Path, file: str, arrays: dict[str, np.ndarray] | None, message: str
) -> None:
    if arrays is None:
        (tmp_path / file).write_bytes(b"what is this")
    else:
        np.savez(tmp_path / file, **arrays)
    done = convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", "--calibration", tmp_path / file)
    assert told(done) == (3, sentence(message, SAMPLES_HINT))


def test_pictures_without_preprocessing_that_have_another_size(front_door: Command, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (12, 10)).save(folder / "a.png")
    (folder / "labels.csv").write_text("file,label\na.png,0\n")
    done = convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", "--calibration", folder)
    assert told(done) == (
        3,
        sentence(
            "pictures: a sample of input 'frame' has shape [10, 12, 3], the model expects [1, 8, 8, 1]",
            "check the samples, or name a preprocessing file with --preprocessing",
        ),
    )


def test_a_label_that_is_no_class(front_door: Command, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "labels.csv").write_text("file,label\na.png,cat\n")
    done = convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", "--calibration", folder)
    assert told(done) == (
        3,
        sentence(
            "'pictures/labels.csv' has the label 'cat', which is neither a number nor a known class",
            "use class numbers, or name the classes in order with --labels FILE",
        ),
    )


def test_labels_that_the_model_does_not_know(
    front_door: Command, tmp_path: Path, digits_samples: Path, digits_bundle: Path
) -> None:
    with np.load(digits_samples / "live.npz") as stored:
        np.savez(tmp_path / "counted_from_one.npz", x=stored["x"], y=stored["y"] + 1)
    assert told(front_door("evaluate", digits_bundle, tmp_path / "counted_from_one.npz")) == (
        3,
        sentence(
            "counted_from_one.npz has labels that are no classes of the model, expected whole numbers from 0 to 9",
            "number the classes from 0 in the order of the model's outputs",
        ),
    )


def test_class_names_of_another_number(front_door: Command, tmp_path: Path, digits_samples: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    done = convert(
        front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", "--labels", tmp_path / "names.txt",
        "--calibration", digits_samples / "calibration.npz",
    )  # fmt: skip
    assert told(done) == (
        2,
        sentence(
            "--labels names 2 classes, the model answers with 10",
            "name each class once, in the order of the model's outputs",
        ),
    )


def test_an_oversized_bundle(front_door: Command, tmp_path: Path) -> None:
    path = tmp_path / "b.bundle"
    path.touch()
    os.truncate(path, BUNDLE_LIMIT_BYTES + 1)  # sparse: takes no room
    assert told(front_door("verify", path)) == (
        3,
        sentence(f"'b.bundle' is {BUNDLE_LIMIT_BYTES + 1} bytes, over the limit of {BUNDLE_LIMIT_BYTES}", BUNDLE_HINT),
    )


def test_int8_without_calibration(front_door: Command, tmp_path: Path) -> None:
    assert told(convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite")) == (
        2,
        sentence(
            "converting a float model to int8 needs calibration samples",
            "name some with --calibration (50 to 500 typical inputs), or keep it float with a recipe",
        ),
    )


def test_a_keras_file_without_tensorflow(front_door: Command, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("TensorFlow is installed here")
    (tmp_path / "m.keras").write_bytes(b"PK")
    done = convert(front_door, tmp_path / "dist", tmp_path / "m.keras")
    assert told(done) == (
        1,
        sentence(
            "reading the Keras file 'm.keras' needs the extra 'tensorflow', which is not installed",
            "run: pip install 'edgefleet[tensorflow]' "
            "(or name the Python of an environment that has it in EDGEFLEET_TENSORFLOW_PYTHON)",
        ),
    )


@pytest.mark.parametrize(
    ("option", "value", "status", "message", "hint"),
    [
        ("--name", "Digits!", 2, "the name 'Digits!' is not made of a-z, 0-9, - and _ (63 characters at most)",
         "name the product as it may stand in a file name: --name digits"),
        ("--version", "1.0", 2, "the version '1.0' is not MAJOR.MINOR.PATCH", "for example: --version 1.0.0"),
        ("--task", "vision", 2, "--task is 'vision'", "choose classification, regression, anomaly or detection"),
        ("--metric", "nothing", 2,
         "--metric is 'nothing', expected accuracy, macro-f1 (for classification) or module:function",
         "write a function(outputs, labels) -> float in a module that Python finds, or in this folder"),
        ("--profile", "toaster", 2,
         f"there is no profile 'toaster', only {', '.join(profile.id for profile in list_profiles())}",
         "name one of these, or a board's own file: --profile FILE.toml"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_used(
    front_door: Command, tmp_path: Path, option: str, value: str, status: int, message: str, hint: str
) -> None:
    done = convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", option, value)
    assert told(done) == (status, sentence(message, hint))


def test_a_recipe_with_an_unknown_field(front_door: Command, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('format_version = 1\nprecision = "int8"\nbits = 4\n')
    done = convert(front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite", "--recipe", tmp_path / "r.toml")
    assert told(done) == (
        2,
        sentence(
            "r.toml: Object contains unknown field `bits`",
            "correct the field that is named (`$` is the file's top)",
        ),
    )


def test_a_place_that_cannot_be_written(front_door: Command, digits_samples: Path, tmp_path: Path) -> None:
    (tmp_path / "dist").write_text("a file, not a folder")
    done = convert(
        front_door, tmp_path / "dist", DIGITS / "v1_float32.tflite",
        "--calibration", digits_samples / "calibration.npz",
    )  # fmt: skip
    assert told(done) == (
        1,
        sentence(
            f"cannot write '{tmp_path}/dist/digits-1.0.0-linux-x86_64.evidence.json': File exists",
            "free space, or choose another place for the output",
        ),
    )


def test_a_bundle_for_another_board(front_door: Command, digits_bundle: Path) -> None:
    assert told(front_door("verify", digits_bundle, "--profile", "raspberry-pi-4")) == (
        3,
        sentence(
            "the bundle digits 1.0.0 is for profile 'linux-x86_64', not for 'raspberry-pi-4'",
            "use the release's bundle for 'raspberry-pi-4', or convert the model for it",
        ),
    )


def test_a_bundle_for_a_board_that_changed_since(front_door: Command, digits_bundle: Path, tmp_path: Path) -> None:
    board = (BOARDS / "linux-x86_64.toml").read_text().replace('kernels = "xnnpack"', 'kernels = "other"')
    (tmp_path / "b.toml").write_text(board)
    now = compat_hash(load_profile(str(tmp_path / "b.toml")))[:12]
    before = compat_hash(load_profile("linux-x86_64"))[:12]
    assert told(front_door("verify", digits_bundle, "--profile", tmp_path / "b.toml")) == (
        3,
        sentence(
            "the bundle digits 1.0.0 was made for another 'linux-x86_64': "
            f"its compat_hash was {before}…, and is {now}…",
            "convert the model again for the profile as it is now",
        ),
    )


@pytest.mark.parametrize("verb", ["verify", "inspect", "evaluate", "run"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'b.bundle' is empty, not a bundle"),
        (b"not a bundle at all" * 60, "'b.bundle' is not a bundle: it does not start with a ustar header"),
    ],
)
def test_a_file_that_is_no_bundle(
    front_door: Command, tmp_path: Path, digits_samples: Path, verb: str, content: bytes, message: str
) -> None:
    (tmp_path / "b.bundle").write_bytes(content)
    np.save(tmp_path / "batch.npy", np.zeros((1, 8, 8, 1), np.float32))
    more: dict[str, list[object]] = {
        "evaluate": [digits_samples / "live.npz"],
        "run": [tmp_path / "batch.npy", "--output", tmp_path / "out.npy"],
    }
    assert told(front_door(verb, tmp_path / "b.bundle", *more.get(verb, []))) == (
        3,
        sentence(message, BUNDLE_HINT),
    )
    assert not (tmp_path / "out.npy").exists()


def test_a_truncated_bundle(front_door: Command, tmp_path: Path, digits_bundle: Path) -> None:
    whole = digits_bundle.read_bytes()
    (tmp_path / "b.bundle").write_bytes(whole[: len(whole) // 1024 * 512])
    status, message = told(front_door("verify", tmp_path / "b.bundle"))
    assert (status, message.count("\n")) == (3, 2)
    assert message.startswith("error: 'b.bundle' is truncated")


def test_a_missing_bundle(front_door: Command, tmp_path: Path) -> None:
    assert told(front_door("verify", tmp_path / "b.bundle")) == (
        2,
        sentence(
            f"cannot read the bundle '{tmp_path}/b.bundle': No such file or directory",
            "check the path and its permissions",
        ),
    )


def test_a_bundle_never_chooses_the_code_that_scores_it(
    front_door: Command, tmp_path: Path, digits_bundle: Path, digits_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle may come from anywhere, and names the metric that its maker used."""
    bundle = open_bundle(digits_bundle)
    hostile = msgspec.structs.replace(bundle.manifest, metric="trap:spring")
    (tmp_path / "b.bundle").write_bytes(pack(hostile, {path: bundle.read(path) for path in bundle.spans}))
    (tmp_path / "trap.py").write_text("import pathlib\npathlib.Path('sprung').touch()\ndef spring(o, l): return 1.0\n")
    monkeypatch.chdir(tmp_path)
    assert told(front_door("evaluate", tmp_path / "b.bundle", digits_samples / "live.npz")) == (
        2,
        sentence(
            "'b.bundle' was scored with a metric of its maker's own, 'trap:spring'",
            "if you have that code and trust it, name it: --metric trap:spring",
        ),
    )
    assert not (tmp_path / "sprung").exists()
