# SPDX-License-Identifier: Apache-2.0
"""Calibrate a cost model: build the benchmark for a board, read what the board measured, fit, write."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgefleet.boards.calibration import CASES, cycle_counter, fit, gather
from edgefleet.boards.calibration_image import build_calibration
from edgefleet.boards.cost import CostModel, cost_toml
from edgefleet.boards.serial_port import open_port
from edgefleet.boards.toolchains import family_of
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration made: the image and how to flash it, or the cost model and its file, or both."""

    profile: str
    image: str | None = None
    flash: tuple[str, ...] = ()
    cost_file: str | None = None
    cost: CostModel | None = None


class Measuring(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a board's answers come: no port, no measuring; ``flashed``: its image was built before."""

    port: Path | None = None
    baud: int = 115200
    timeout_s: float = 60.0
    flashed: bool = False


def calibrate(
    profile: str, folder: Path, *, uart: Path | None, measuring: Measuring, say: Callable[[str], None]
) -> Calibration:
    """Build the calibration image into ``folder``, and, where a port is given, measure and write the cost model.

    ``uart`` is a C file with the board's ``uart_init`` and ``uart_write``; emulated boards have one. ``say`` is told
    what to do and how far it is.

    Raises:
        EdgeFleetError: no compiler, a board that does not answer, a file that cannot be written: one sentence each.
    """
    board = load_profile(profile)
    family_of(board.cpu)  # refuses what is no microcontroller
    image: Path | None = None
    if not measuring.flashed:
        image = build_calibration(board, folder, uart=uart).elf
        for line in flash_lines(image):
            say(line)
    made = Calibration(profile=board.id)
    if image is not None:
        made = msgspec.structs.replace(made, image=str(image), flash=flash_lines(image))
    if measuring.port is None:
        return made
    model = measure(board, measuring, measuring.port, say=say)
    file = folder / f"cost-{board.id}.toml"
    _write(file, cost_toml(model))
    return msgspec.structs.replace(made, cost_file=str(file), cost=model)


def measure(board: Profile, measuring: Measuring, port: Path, *, say: Callable[[str], None]) -> CostModel:
    """Read one round of a board's answers, and fit its cost model to them."""
    with open_port(port, baud=measuring.baud) as opened:
        say(f"reading {len(CASES)} cases from {port}, {measuring.baud} baud; reset the board if nothing comes")
        measured = gather(opened, timeout_s=measuring.timeout_s, progress=say)
    return fit(measured, profile=board.id, counter=cycle_counter(board.cpu))


def flash_lines(image: Path) -> tuple[str, ...]:
    """Return how to bring the image to a board, with the tools that people have."""
    return (
        f"flash {image} with your board's tool, one of:",
        f'  openocd -f board/YOURS.cfg -c "program {image} verify reset exit"',
        f"  pyocd load {image}",
        f"  probe-rs run --chip YOURS {image}",
        "then connect its serial port, and run this command with --port and --flashed",
    )


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write '{file}': {error.strerror}", hint="name a folder that can be written to: --out DIR"
        ) from error
