# SPDX-License-Identifier: Apache-2.0
"""A bundle for a microcontroller, its batch, what TFLM makes of it, and the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from converter import convert
from edgefleet.cli.main import main
from edgefleet.contracts.bundle import open_bundle
from edgefleet.runtimes.tflm import TflmInterpreter
from fleet_emulation.demo.run import example_folder


class Told(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON document."""
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


Edgefleet = Callable[..., Told]


@pytest.fixture(name="edgefleet_command")
def _edgefleet_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgefleet:
    def run(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["edgefleet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Told(int(stopped.value.code or 0), printed.out, printed.err)

    return run


class MicrocontrollerCase(NamedTuple):
    """A bundle for mps2-an386, a batch for it, and TFLM's answers."""

    bundle: Path
    batch: Path
    expected: np.ndarray[Any, Any]


@pytest.fixture(scope="session", name="microcontroller_case")
def _microcontroller_case(tmp_path_factory: pytest.TempPathFactory) -> MicrocontrollerCase:
    folder, example = tmp_path_factory.mktemp("microcontroller"), example_folder()
    with np.load(example / "digits.npz") as digits:
        np.savez(folder / "calibration.npz", x=digits["calibration_x"], y=digits["calibration_y"])
    converted = convert(
        example / "v1_float32.tflite",
        profile="mps2-an386",
        name="digits",
        version="1.0.0",
        calibration=folder / "calibration.npz",
    )
    bundle = converted.write(folder)
    opened = open_bundle(bundle)
    oracle = TflmInterpreter(opened.read(opened.manifest.model))
    batch = np.random.default_rng(3).integers(-128, 128, (3, *oracle.inputs[0].shape[1:])).astype(np.int8)
    np.save(folder / "batch.npy", batch)
    expected = np.stack([oracle.invoke([sample[None]])[0][0] for sample in batch])
    return MicrocontrollerCase(bundle, folder / "batch.npy", expected)
