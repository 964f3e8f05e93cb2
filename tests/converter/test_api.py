# SPDX-License-Identifier: Apache-2.0
"""The converter as a library: plain arguments in, bytes out, the same as the command line's."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.core.recipe import Recipe
from edgefleet.contracts.canonical import sha256_file, sha256_hex
from edgefleet.contracts.errors import EdgeFleetError, InputError, ModelFailedError, SampleError
from edgefleet.contracts.manifest import Preprocessing
from firmware_profiles import load_profile

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
MODEL = DIGITS / "v1_float32.tflite"
RECIPE = Recipe(precision="int8", conditioning=("none",))
Samples = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def calibration() -> Samples:
    with np.load(DIGITS / "digits.npz") as stored:
        return stored["calibration_x"][:40], stored["calibration_y"][:40]


@pytest.fixture(scope="module")
def live() -> Samples:
    with np.load(DIGITS / "digits.npz") as stored:
        return stored["live_x"][:40], stored["live_y"][:40]


def convert(**changes: Any) -> converter.Converted:
    given = {"profile": "linux-x86_64", "name": "digits", "version": "1.0.0", "recipe": RECIPE}
    return converter.convert(MODEL, **{**given, **changes})


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import converter, sys; print(sorted({'numpy', 'msgspec', 'ai_edge_litert'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_everything_that_is_offered_is_described() -> None:
    assert set(converter.__all__) <= set(dir(converter))
    for name in converter.__all__:
        assert getattr(converter, name).__doc__
    with pytest.raises(AttributeError, match=r"^module 'converter' has no attribute 'translate'$"):
        converter.translate  # noqa: B018


def test_the_same_samples_make_the_same_bundle_however_they_are_held(
    calibration: Samples, live: Samples, tmp_path: Path
) -> None:
    x, y = calibration
    np.savez(tmp_path / "calibration.npz", x=x, y=y)

    def pairs() -> Iterator[Samples]:
        yield from zip(x[::-1], y[::-1], strict=True)

    forms: list[Any] = [tmp_path / "calibration.npz", (x, y), {"x": x, "y": y}, pairs, pairs()]
    made = [convert(calibration=form, evaluation=live) for form in forms]
    assert len({one.sha256 for one in made}) == 1
    assert made[0].sha256 == sha256_hex(made[0].bundle)
    assert made[0].evidence.evaluation is not None
    assert made[0].evidence.evaluation.samples == 40


def test_a_bundle_is_written_with_what_stands_beside_it(calibration: Samples, tmp_path: Path) -> None:
    made = convert(calibration=calibration[0])
    path = made.write(tmp_path / "dist")
    assert path == tmp_path / "dist" / "digits-1.0.0-linux-x86_64.bundle"
    assert sha256_file(path) == made.sha256
    assert {each.name for each in path.parent.iterdir()} == {path.name, *made.documents}
    assert sorted(name.removeprefix(path.stem) for name in made.documents) == [
        ".evidence.json", ".mlbom.json", ".provenance.json", ".recipe.json",
    ]  # fmt: skip
    assert converter.verify(path, profile="linux-x86_64").sha256 == made.sha256
    assert converter.inspect(path).manifest == made.manifest


def test_the_command_line_makes_the_same_bundle(
    front_door: Callable[..., subprocess.CompletedProcess[str]], calibration: Samples, tmp_path: Path
) -> None:
    np.savez(tmp_path / "calibration.npz", x=calibration[0])
    made = convert(calibration=calibration[0], recipe=None)
    done = front_door(
        "convert", MODEL, "--profile", "linux-x86_64", "--name", "digits", "--version", "1.0.0",
        "--calibration", tmp_path / "calibration.npz", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / made.file_name).read_bytes() == made.bundle


def test_a_bundle_is_made_again_from_samples_in_memory(calibration: Samples, live: Samples, tmp_path: Path) -> None:
    path = convert(calibration=calibration, evaluation=live, acceptance=live).write(tmp_path)
    assert converter.rebuild(path, source=MODEL, calibration=calibration, evaluation=zip(*live, strict=True)).same
    found = converter.rebuild(path, source=MODEL, calibration=live)
    assert [finding.what for finding in found.findings] == ["the calibration set"]


def test_a_metric_may_be_a_function(calibration: Samples, live: Samples, tmp_path: Path) -> None:
    def share_of_zeros(outputs: np.ndarray, _: np.ndarray) -> float:
        return float((outputs.argmax(axis=1) == 0).mean())

    made = convert(calibration=calibration, evaluation=live, metric=share_of_zeros)
    assert made.evidence.evaluation is not None
    assert made.evidence.evaluation.metric == made.manifest.metric == f"{__name__}:{share_of_zeros.__qualname__}"
    path = made.write(tmp_path)
    with pytest.raises(InputError, match="was scored with a metric of its maker's own"):
        converter.rebuild(path, source=MODEL, calibration=calibration)
    assert converter.rebuild(path, source=MODEL, calibration=calibration, metric=share_of_zeros).same


def failing() -> Iterator[np.ndarray]:
    yield np.zeros((8, 8, 1), np.float32)
    raise RuntimeError("no more film")


REFUSALS: list[tuple[dict[str, Any], type[EdgeFleetError], str]] = [
    ({"calibration": failing}, InputError, "calibration (in memory) failed: RuntimeError: no more film"),
    ({"calibration": 7}, InputError, "calibration (in memory) failed: TypeError: 'int' object is not iterable"),
    ({"calibration": np.zeros((0, 8, 8, 1))}, SampleError,
     "calibration (in memory) has arrays of different or no length: {'x': 0}"),
    ({"calibration": {"z": np.zeros(3)}}, SampleError, "calibration (in memory) has no array 'frame', only ['z']"),
    ({"calibration": np.array(["a", "b"])}, SampleError,
     "calibration (in memory) holds <U1 in 'x', expected numbers"),
    ({"max_flash": 0}, InputError, "'0' is no whole number of bytes above 0"),
    ({"max_accuracy_drop": 1.5}, InputError, "'1.5' is more than the whole"),
    ({"max_latency": float("nan")}, InputError, "'nanus' is no number with a unit"),
    ({"task": "translation"}, InputError, "--task is 'translation'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "message"), REFUSALS, ids=[message[:40] for *_, message in REFUSALS])
def test_an_argument_that_cannot_be_used_is_refused_in_a_sentence(
    changes: dict[str, Any], kind: type[EdgeFleetError], message: str
) -> None:
    with pytest.raises(kind) as refused:
        convert(**changes)
    assert refused.value.message == message


def test_what_a_library_raises_over_a_model_is_a_sentence_too(
    calibration: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unheard_of(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("converter.pipeline.check_sound", unheard_of)
    with pytest.raises(ModelFailedError) as refused:
        convert(calibration=calibration)
    assert refused.value.message.startswith(
        "the converter cannot make sense of the model: IndexError: list index out of range (test_api.py, line "
    )
    assert isinstance(refused.value.__cause__, IndexError)


def test_profiles_and_preprocessing_may_be_objects(calibration: Samples) -> None:
    x = calibration[0]
    made = convert(
        calibration=x, profile=load_profile("raspberry-pi-4"), preprocessing=Preprocessing(), labels=list("abcdefghij")
    )
    assert (made.manifest.profile.id, made.manifest.interface.labels) == ("raspberry-pi-4", tuple("abcdefghij"))
