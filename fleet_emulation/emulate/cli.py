# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate``: run a model on an emulated board, compare it layer by layer, begin a project, calibrate."""

import typer

from fleet_emulation.emulate.commands.calibrate import calibrate
from fleet_emulation.emulate.commands.init import init
from fleet_emulation.emulate.commands.parity import parity
from fleet_emulation.emulate.commands.run import run

app = typer.Typer(
    help="Models on emulated boards: run them, compare them layer by layer, count what they cost.",
    add_completion=False,
    no_args_is_help=True,
)


@app.callback()
def _group() -> None:
    """Make a group of the application, however many commands it has."""


app.command(epilog="Example: edgefleet emulate run dist/kws-1.0.0-mps2-an386.bundle --input x.npy --output y.npy")(run)
app.command(epilog="Example: edgefleet emulate parity dist/kws-1.0.0-mps2-an386.bundle")(parity)
app.command(epilog="Example: edgefleet emulate calibrate --profile nucleo-l4r5zi --uart uart.c --port /dev/ttyACM0")(
    calibrate
)
app.command(epilog="Example: edgefleet emulate init kws-on-m4 --profile mps2-an386 --model kws_int8.tflite")(init)
