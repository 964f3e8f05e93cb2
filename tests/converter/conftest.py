# SPDX-License-Identifier: Apache-2.0
"""Real models and samples, and the real command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def converter_command() -> Command:
    """Run ``edgefleet`` with these arguments, in a process of its own."""
    program = Path(sys.executable).with_name("edgefleet")

    def run(
        *arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )

    return run


@pytest.fixture
def front_door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``edgefleet`` with these arguments in this process: the same code, without the time to start."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = ["edgefleet", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(stopped.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def digits_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with calibration.npz, reversed.npz (the same samples, another order) and live.npz (120 samples)."""
    folder = tmp_path_factory.mktemp("digits")
    with np.load(DIGITS / "digits.npz") as stored:
        x, y = stored["calibration_x"], stored["calibration_y"]
        np.savez(folder / "calibration.npz", x=x, y=y)
        np.savez(folder / "reversed.npz", y=y[::-1], x=x[::-1])
        np.savez(folder / "live.npz", x=stored["live_x"][:120], y=stored["live_y"][:120])
    return folder


@pytest.fixture(scope="session")
def digits_bundle(converter_command: Command, digits_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1 of digits, converted through the command line for linux-x86_64."""
    out = tmp_path_factory.mktemp("dist")
    done = converter_command(
        "convert", DIGITS / "v1_float32.tflite", "--profile", "linux-x86_64", "--name", "digits", "--version", "1.0.0",
        "--calibration", digits_samples / "calibration.npz", "--evaluation", digits_samples / "live.npz",
        "--acceptance", DIGITS / "acceptance.npz", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out / "digits-1.0.0-linux-x86_64.bundle"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of large models and pictures that are not part of the repository."""
    folder = Path(os.environ.get("EDGEFLEET_SHARED", ROOT.parent / "shared"))
    if not (folder / "models" / "vww_float32.tflite").is_file():
        pytest.skip(f"no models/vww_float32.tflite in {folder} (set EDGEFLEET_SHARED)")
    return folder
