# SPDX-License-Identifier: Apache-2.0
"""A float model becomes a proved bundle, through the real command line."""

import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.evidence import ConversionEvidence
from edgefleet.contracts.policy import read_policy
from edgefleet.contracts.profile import compat_hash
from firmware_profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
Command = Callable[..., subprocess.CompletedProcess[str]]


def arguments(
    samples: Path, out: Path, calibration: str = "calibration.npz", profile: str = "linux-x86_64"
) -> Sequence[object]:
    return [
        "convert", DIGITS / "v1_float32.tflite", "--profile", profile, "--name", "digits", "--version", "1.0.0",
        "--calibration", samples / calibration, "--evaluation", samples / "live.npz",
        "--acceptance", DIGITS / "acceptance.npz", "--out", out, "--json",
    ]  # fmt: skip


def test_the_bundle_states_what_it_is(digits_bundle: Path) -> None:
    manifest = open_bundle(digits_bundle).manifest
    profile = load_profile("linux-x86_64")
    assert (manifest.name, manifest.version, manifest.task, manifest.metric) == (
        "digits",
        "1.0.0",
        "classification",
        "accuracy",
    )
    assert (manifest.precision, manifest.profile.compat_hash) == ("int8", compat_hash(profile))
    assert (manifest.runtime.kind, manifest.runtime.minimum_version) == ("litert", version("ai-edge-litert"))
    assert [(s.shape, s.dtype) for s in manifest.interface.inputs] == [((1, 8, 8, 1), "int8")]
    assert [(s.shape, s.dtype) for s in manifest.interface.outputs] == [((1, 10), "int8")]
    assert [member.path for member in manifest.members] == [
        "MODEL_CARD.md",
        "golden/acceptance.npz",
        "golden/parity_input_0.bin",
        "golden/parity_output_0.bin",
        "model/model.tflite",
        "recipe.json",
    ]
    assert manifest.reference is not None
    assert sum(manifest.reference.classes) == sum(manifest.reference.confidence) == 120


def test_the_acceptance_examples_of_the_bundle_are_the_ones_that_the_policy_pins(digits_bundle: Path) -> None:
    policy = read_policy((DIGITS / "policy.toml").read_bytes(), source="policy.toml").policy
    accepted = open_bundle(digits_bundle).manifest.acceptance
    assert accepted is not None
    assert policy.device.acceptance is not None
    assert accepted.sha256 == policy.device.acceptance.sha256 == sha256_file(DIGITS / "acceptance.npz")
    assert accepted.value >= policy.device.acceptance.minimum


def test_the_evidence_names_the_bundle_and_compares_with_float(digits_bundle: Path) -> None:
    evidence = msgspec.json.decode(digits_bundle.with_suffix(".evidence.json").read_bytes(), type=ConversionEvidence)
    assert evidence.bundle_sha256 == sha256_file(digits_bundle)
    assert evidence.evaluation is not None
    assert evidence.evaluation.value >= 0.95
    assert evidence.comparison is not None
    assert evidence.comparison.top1_agreement >= 0.98
    assert evidence.comparison.interval.low <= evidence.comparison.difference <= evidence.comparison.interval.high
    assert evidence.model_bytes < (evidence.float_model_bytes or 0) / 2


def test_another_process_and_another_order_of_samples_give_the_same_bytes(
    converter_command: Command, digits_samples: Path, digits_bundle: Path, tmp_path: Path
) -> None:
    done = converter_command(*arguments(digits_samples, tmp_path, "reversed.npz"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == sha256_file(digits_bundle)
    assert (tmp_path / digits_bundle.name).read_bytes() == digits_bundle.read_bytes()


def test_tensorflow_is_never_imported_on_the_light_path(
    converter_command: Command, digits_samples: Path, tmp_path: Path
) -> None:
    package = tmp_path / "bait" / "tensorflow"
    package.mkdir(parents=True)
    marker = tmp_path / "imported"
    (package / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()")
    done = converter_command(*arguments(digits_samples, tmp_path / "dist"), env={"PYTHONPATH": str(package.parent)})
    assert done.returncode == 0, done.stderr
    assert not marker.exists()


def test_verify_tells_each_check_that_a_sound_bundle_passed(converter_command: Command, digits_bundle: Path) -> None:
    done = converter_command("verify", digits_bundle, "--profile", "linux-x86_64", "--json")
    assert done.returncode == 0, done.stderr
    assert [check["name"] for check in json.loads(done.stdout)["checks"]] == [
        "format",
        "board",
        "parity, reference kernels",
        "parity, production kernels",
        "acceptance",
    ]


def test_evaluate_has_the_shape_that_scripts_rely_on(
    converter_command: Command, digits_bundle: Path, digits_samples: Path
) -> None:
    done = converter_command("evaluate", digits_bundle, digits_samples / "live.npz", "--json")
    document = json.loads(done.stdout)
    assert set(document) == {"samples", "metric", "value", "per_class"}
    assert (document["samples"], document["metric"], len(document["per_class"])) == (120, "accuracy", 10)
    evidence = json.loads(digits_bundle.with_suffix(".evidence.json").read_text())
    assert document["value"] == evidence["evaluation"]["value"]


def test_run_takes_tensors_as_they_are_and_raw_samples_as_real_values(
    converter_command: Command, digits_bundle: Path, digits_samples: Path, tmp_path: Path
) -> None:
    with np.load(digits_samples / "live.npz") as stored:
        pixels, labels = stored["x"], stored["y"]
    spec = open_bundle(digits_bundle).manifest.interface.inputs[0]
    assert spec.scale is not None
    tensors = np.clip(np.rint(pixels / np.float32(spec.scale)) + (spec.zero_point or 0), -128, 127).astype(np.int8)
    np.save(tmp_path / "tensors.npy", tensors)
    np.save(tmp_path / "pixels.npy", pixels.astype(np.float32))
    for name in ("tensors", "pixels"):
        done = converter_command(
            "run", digits_bundle, tmp_path / f"{name}.npy", "--output", tmp_path / f"{name}-out.npy", "--json"
        )
        assert done.returncode == 0, done.stderr
    raw, real = np.load(tmp_path / "tensors-out.npy"), np.load(tmp_path / "pixels-out.npy")
    assert (raw.dtype, raw.shape, real.dtype) == (np.int8, (120, 1, 10), np.float32)
    assert np.allclose((raw.astype(np.float32) + 128) / 256, real)
    assert np.mean(raw.reshape(120, 10).argmax(axis=1) == labels) >= 0.95


def test_inspect_shows_operators_with_versions_and_tensors(converter_command: Command, digits_bundle: Path) -> None:
    done = converter_command("inspect", digits_bundle, "--json")
    model = json.loads(done.stdout)["model"]
    assert [(operator["name"], operator["version"]) for operator in model["operators"]] == [
        ("CONV_2D", 3),
        ("CONV_2D", 3),
        ("MAX_POOL_2D", 2),
        ("RESHAPE", 1),
        ("FULLY_CONNECTED", 4),
        ("SOFTMAX", 2),
    ]
    assert (model["precision"], model["stated_runtime_version"]) == ("int8", "1.14.0")
    text = converter_command("inspect", DIGITS / "v1_float32.tflite").stdout
    assert text.startswith("v1_float32.tflite: 18052 bytes\nmodel: 18052 bytes, float32, needs TFLite 1.5.0 or later\n")


def test_a_quantized_model_is_taken_as_it_is(converter_command: Command, digits_bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(digits_bundle) as archive:
        member = archive.extractfile("model/model.tflite")
        assert member is not None
        model = member.read()
    (tmp_path / "int8.tflite").write_bytes(model)
    done = converter_command(
        "convert", tmp_path / "int8.tflite", "--profile", "mps2-an386", "--name", "digits", "--version", "1.0.0",
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = tmp_path / "digits-1.0.0-mps2-an386.bundle"
    bundle = open_bundle(path)
    assert bundle.read("model/model.tflite") == model
    assert bundle.manifest.runtime.numerics == "tflm/1"
    assert converter_command("verify", path, "--profile", "mps2-an386").returncode == 0


def test_a_float_recipe_keeps_the_model_and_its_nan(
    converter_command: Command, digits_samples: Path, tmp_path: Path
) -> None:
    done = converter_command(
        "convert", DIGITS / "v3_float32.tflite", "--profile", "linux-x86_64", "--name", "digits", "--version", "3.0.0",
        "--recipe", DIGITS / "float32.toml", "--acceptance", DIGITS / "acceptance.npz",
        "--calibration", digits_samples / "calibration.npz", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = tmp_path / "digits-3.0.0-linux-x86_64.bundle"
    bundle = open_bundle(path)
    assert bundle.manifest.precision == "float32"
    assert bundle.read("model/model.tflite") == (DIGITS / "v3_float32.tflite").read_bytes()
    np.save(tmp_path / "blank.npy", np.zeros((1, 8, 8, 1), np.float32))
    converter_command("run", path, tmp_path / "blank.npy", "--output", tmp_path / "answer.npy")
    assert np.isnan(np.load(tmp_path / "answer.npy")).all()


def test_a_users_own_metric_is_called_with_outputs_and_labels(
    converter_command: Command, digits_bundle: Path, digits_samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def errors(outputs, labels):\n    return (outputs.argmax(axis=1) != labels).sum()\n"
    )
    done = converter_command(
        "evaluate", digits_bundle, digits_samples / "live.npz", "--metric", "mine:errors", "--json", cwd=tmp_path
    )
    document = json.loads(done.stdout)
    assert document["metric"] == "mine:errors"
    plain = json.loads(converter_command("evaluate", digits_bundle, digits_samples / "live.npz", "--json").stdout)
    assert document["value"] == pytest.approx(120 * (1 - plain["value"]))
