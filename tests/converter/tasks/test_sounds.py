# SPDX-License-Identifier: Apache-2.0
"""Folders of .wav files from end to end: heard as the device hears them, or refused in one sentence."""

import json
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet.contracts.bundle import open_bundle

Command = Callable[..., subprocess.CompletedProcess[str]]


def convert(folder: Path, out: Path, calibration: Path, how: Path | None = None) -> list[object]:
    return [
        "convert", folder / "model.tflite", "--profile", "linux-x86_64", "--name", "tones", "--version", "1.0.0",
        "--calibration", calibration, "--labels", folder / "names.txt", "--out", out, "--json",
        *(("--preprocessing", how) if how is not None else ()),
    ]  # fmt: skip


def test_clips_become_bands_and_a_bundle(sound_folder: Path, front_door: Command, tmp_path: Path) -> None:
    how = sound_folder / "mel.toml"
    words = convert(sound_folder, tmp_path, sound_folder / "calibration", how)
    done = front_door(*words, "--evaluation", sound_folder / "labelled")
    assert done.returncode == 0, done.stdout
    evidence = json.loads(done.stdout)["evidence"]
    assert evidence["evaluation"]["value"] >= 0.95
    assert evidence["comparison"]["top1_agreement"] >= 0.95
    bundle = tmp_path / "tones-1.0.0-linux-x86_64.bundle"
    audio = open_bundle(bundle).manifest.preprocessing.audio
    assert audio is not None
    assert (audio.kind, audio.sample_rate_hz, audio.mel_bins) == ("log-mel", 8000, 16)
    scored = front_door("evaluate", bundle, sound_folder / "labelled", "--json")
    assert json.loads(scored.stdout)["value"] == evidence["evaluation"]["value"]


def test_clips_without_a_preprocessing_are_refused(sound_folder: Path, front_door: Command, tmp_path: Path) -> None:
    done = front_door(*convert(sound_folder, tmp_path / "out", sound_folder / "calibration"))
    assert (done.returncode, json.loads(done.stdout)["error"]["message"]) == (
        3,
        "calibration holds clips, and there is no preprocessing that says how they become inputs",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mel_bins = 16", "mel_bins = 20"),
         "the preprocessing makes inputs of shape [1, 24, 20], the model's input 'bands' has [1, 24, 16, 1]"),
        (("clip_samples = 4000", "clip_samples = 8000"),
         "the preprocessing makes inputs of shape [1, 49, 16], the model's input 'bands' has [1, 24, 16, 1]"),
    ],
)  # fmt: skip
def test_bands_of_another_shape_are_told_before_anything_runs(
    sound_folder: Path, front_door: Command, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "how.toml").write_text((sound_folder / "mel.toml").read_text().replace(*change))
    done = front_door(*convert(sound_folder, tmp_path / "out", sound_folder / "calibration", tmp_path / "how.toml"))
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["message"]) == (2, message)
    assert error["hint"].startswith("frames are (clip_samples - frame_samples) / stride_samples + 1")


def test_one_clip_of_another_rate_among_many_is_named(sound_folder: Path, front_door: Command, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(3):
        with wave.open(str(folder / f"{number}.wav"), "wb") as stream:
            stream.setparams((1, 2, 16000 if number == 2 else 8000, 0, "NONE", ""))
            stream.writeframes(np.random.default_rng(number).integers(-99, 99, 4000).astype("<i2").tobytes())
    (folder / "labels.csv").write_text("file,label\n0.wav,low\n1.wav,low\n2.wav,high\n")
    done = front_door(*convert(sound_folder, tmp_path / "out", folder, sound_folder / "mel.toml"))
    assert (done.returncode, json.loads(done.stdout)["error"]["message"]) == (
        3,
        "mixed: '2.wav' has 16000 samples a second, the preprocessing expects 8000",
    )
    assert not (tmp_path / "out").exists()
