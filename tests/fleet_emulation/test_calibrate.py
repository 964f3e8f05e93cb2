# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate calibrate`` from end to end: an image, a port with a simulated board, a cost model in a file."""

import json
import os
import shutil
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgefleet.boards.calibration import CASES
from edgefleet.boards.cost import read_cost
from edgefleet.contracts.errors import IncompatibleError, InputError, StorageError, UnreachableError
from fleet_emulation.emulate.calibrating import Measuring, calibrate
from fleet_emulation.emulate.cli import app

TRUE = (1.3, 0.7, 0.2)


def a_round() -> bytes:
    lines = ['{"calibration":1,"cases":12}']
    for case in CASES:
        one = case.measured(1)
        cycles = sum(w * n for w, n in zip(TRUE, (one.instructions, one.loads, one.stores), strict=True))
        lines.append(json.dumps({"case": case.name, "cycles": round(cycles)}))
    return "".join(f"{line}\n" for line in [*lines, '{"done":12}']).encode()


class SimulatedBoard:
    """Sends round after round, as the image does, until it is closed; a write waits while nobody reads."""

    def __init__(self) -> None:
        self._end, self._listener = os.openpty()
        tty.setraw(self._end)
        os.set_blocking(self._end, False)
        self.port = os.ttyname(self._listener)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        waiting = b""
        while not self._closed.wait(0.01):  # the board's own pause between rounds
            waiting = waiting or a_round()
            try:
                waiting = waiting[os.write(self._end, waiting) :]
            except BlockingIOError:
                continue

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        os.close(self._end)
        os.close(self._listener)


@pytest.fixture
def board() -> Iterator[SimulatedBoard]:
    simulated = SimulatedBoard()
    yield simulated
    simulated.close()


def test_a_board_s_answers_become_a_cost_model_in_a_file(board: SimulatedBoard, tmp_path: Path) -> None:
    words = ["calibrate", "--profile", "nucleo-l4r5zi", "--flashed", "--port", board.port, "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exception is None, done.output
    file = tmp_path / "cost-nucleo-l4r5zi.toml"
    assert done.output.splitlines() == [
        "cycles = 1.300 x instructions + 0.700 x loads + 0.200 x stores",
        "calibrated on nucleo-l4r5zi (its dwt cycle counter, by edgefleet emulate calibrate; 12 cases, "
        "worst error 0.0%, mean 0.0%)",
        f"wrote {file}; use it: edgefleet emulate run … --cost {file}",
    ]
    model = read_cost(file)
    assert (model.calibrated, model.profile) == (True, "nucleo-l4r5zi")
    assert model.cycles_per.instructions == pytest.approx(1.3, abs=1e-3)


@pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="apt-get install gcc-arm-none-eabi: no compiler for the board"
)
def test_without_a_port_the_image_is_built_and_how_to_flash_it_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["calibrate", "--profile", "mps2-an386", "--out", str(tmp_path), "--json"])
    assert done.exception is None, done.output
    made = json.loads(done.output)
    image = Path(made["image"])
    assert image.is_file()
    assert made["flash"][0] == f"flash {image} with your board's tool, one of:"
    assert (made["cost_file"], made["cost"]) == (None, None)


def silent(_: str) -> None:
    pass


def test_each_thing_that_is_missing_is_one_sentence(tmp_path: Path, board: SimulatedBoard) -> None:
    nowhere = Measuring(port=tmp_path / "ttyACM7", flashed=True)
    with pytest.raises(UnreachableError) as no_port:
        calibrate("nucleo-l4r5zi", tmp_path, uart=None, measuring=nowhere, say=silent)
    assert no_port.value.message == f"cannot open the serial port '{tmp_path}/ttyACM7': No such file or directory"
    with pytest.raises(InputError) as no_driver:
        calibrate("nucleo-l4r5zi", tmp_path, uart=None, measuring=Measuring(), say=silent)
    assert no_driver.value.message == "nothing here knows the serial port of 'nucleo-l4r5zi'"
    with pytest.raises(IncompatibleError) as no_chip:
        calibrate("raspberry-pi-4", tmp_path, uart=None, measuring=Measuring(), say=silent)
    assert no_chip.value.message == "'aarch64' is no microcontroller's architecture: got core 'cortex-a72'"
    file = tmp_path / "file"
    file.write_text("")
    there = Measuring(port=Path(board.port), flashed=True)
    with pytest.raises(StorageError) as no_folder:
        calibrate("nucleo-l4r5zi", file, uart=None, measuring=there, say=silent)
    assert no_folder.value.message == f"cannot write '{file}/cost-nucleo-l4r5zi.toml': File exists"
