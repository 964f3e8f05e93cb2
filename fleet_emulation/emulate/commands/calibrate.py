# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate calibrate``: what a real board's cycle counter says, as a cost model for emulated counts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit, progress

if TYPE_CHECKING:
    from fleet_emulation.emulate.calibrating import Calibration


def calibrate(
    profile: Annotated[str, typer.Option("--profile", help="The board's id or file.", metavar="ID|FILE")],
    port: Annotated[
        Path | None,
        typer.Option("--port", help="The board's serial port, 8N1. Without it the image is built, and that is all."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the image and the cost model.")] = Path(),
    uart: Annotated[
        Path | None,
        typer.Option("--uart", help="C file with the board's uart_init() and uart_write(); emulated boards have one."),
    ] = None,
    baud: Annotated[int, typer.Option("--baud", help="The serial port's speed.")] = 115200,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds without an answer after which to give up.")
    ] = 60.0,
    flashed: Annotated[
        bool, typer.Option("--flashed", help="The image is on the board already: build nothing, only measure.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a cycle-counter benchmark for a board, read its answers, and fit cycles to instructions, loads and stores.

    The model is an estimate with its error stated. `edgefleet emulate run --cost FILE` makes cycles of counts with it.
    """
    from fleet_emulation.emulate.calibrating import Measuring
    from fleet_emulation.emulate.calibrating import calibrate as calibrate_board

    measuring = Measuring(port=port, baud=baud, timeout_s=timeout_s, flashed=flashed)
    with progress("calibrating") as advance:
        made = calibrate_board(profile, out, uart=uart, measuring=measuring, say=advance.say)
    emit(made, as_json=as_json, human=lambda: _text(made))


def _text(made: "Calibration") -> str:
    lines = [f"built {made.image}", *made.flash] if made.image else []
    if made.cost is not None:
        per = made.cost.cycles_per
        lines += [
            f"cycles = {per.instructions:.3f} x instructions + {per.loads:.3f} x loads + {per.stores:.3f} x stores",
            made.cost.describe(),
            f"wrote {made.cost_file}; use it: edgefleet emulate run … --cost {made.cost_file}",
        ]
    return "\n".join(lines)
