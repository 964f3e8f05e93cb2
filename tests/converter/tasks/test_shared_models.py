# SPDX-License-Identifier: Apache-2.0
"""Models that people deploy, through the command line: machine sounds (anomaly) and key words, on samples made here."""

import json
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

Command = Callable[..., subprocess.CompletedProcess[str]]
MFCC = """[audio]
kind = "mfcc"
sample_rate_hz = 16000
clip_samples = 16000
"""


def machine(count: int, seed: int, *, tone_db: float) -> np.ndarray:
    """Draw log-mel windows of a humming machine, five frames of 128 bands; anomalies have a tone besides."""
    chance, bands = np.random.default_rng(seed), np.linspace(0.0, 1.0, 128)
    windows = np.empty((count, 5, 128), np.float32)
    for window in windows:
        speed, load = chance.normal(size=2)
        hum = -20 - 25 * bands + 6 * np.sin(9 * bands) + 2 * speed * np.sin(4 * bands) + 1.5 * load * np.cos(7 * bands)
        window[:] = hum + chance.normal(0, 1.2, (5, 128))
        band = chance.integers(10, 118)
        window[:, band - 3 : band + 3] += tone_db * chance.uniform(0.5, 1.5)
    return windows.reshape(count, 640)


def test_int8_scores_of_machine_sounds_rank_as_float_ones_do(
    shared_dir: Path, front_door: Command, tmp_path: Path
) -> None:
    np.savez(tmp_path / "normal.npz", x=machine(80, 1, tone_db=0.0))
    both = np.concatenate([machine(120, 2, tone_db=0.0), machine(120, 3, tone_db=9.0)])
    np.savez(tmp_path / "both.npz", x=both, y=np.repeat([0, 1], 120))
    done = front_door(
        "convert", shared_dir / "models" / "ad_float32.tflite", "--profile", "linux-x86_64", "--name", "hum",
        "--version", "1.0.0", "--task", "anomaly", "--calibration", tmp_path / "normal.npz",
        "--evaluation", tmp_path / "both.npz", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    compared = json.loads(done.stdout)["evidence"]["comparison"]
    assert compared["rank_correlation"] >= 0.99
    assert abs(compared["difference"]) <= 0.02
    assert compared["float_value"] >= 0.65
    assert "top1_agreement" not in compared


def test_key_words_are_heard_from_wav_files(shared_dir: Path, front_door: Command, tmp_path: Path) -> None:
    clips, lines = tmp_path / "clips", ["file,label"]
    clips.mkdir()
    chance, time_s = np.random.default_rng(6), np.arange(16000) / 16000
    for number in range(12):
        sound = 5000 * np.sin(2 * np.pi * chance.uniform(150, 900) * time_s) * np.exp(-3 * time_s)
        with wave.open(str(clips / f"{number}.wav"), "wb") as stream:
            stream.setparams((1, 2, 16000, 0, "NONE", ""))
            stream.writeframes((sound + chance.normal(0, 300, 16000)).astype("<i2").tobytes())
        lines.append(f"{number}.wav,{number}")
    (clips / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "mfcc.toml").write_text(MFCC)
    words = [
        "convert", shared_dir / "models" / "kws_int8.tflite", "--profile", "linux-x86_64", "--name", "words",
        "--version", "1.0.0", "--calibration", clips, "--evaluation", clips, "--preprocessing", tmp_path / "mfcc.toml",
        "--out", tmp_path / "out", "--json",
    ]  # fmt: skip
    done = front_door(*words)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["evidence"]["evaluation"]["samples"] == 12
    (tmp_path / "mfcc.toml").write_text(MFCC + "coefficients = 13\n")
    refused = front_door(*words)
    assert (refused.returncode, json.loads(refused.stdout)["error"]["message"]) == (
        2,
        "the preprocessing makes inputs of shape [1, 49, 13], the model's input 'input_1' has [1, 49, 10, 1]",
    )
