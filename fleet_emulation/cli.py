# SPDX-License-Identifier: Apache-2.0
"""``edgefleet demo``: the whole loop on this machine, with every part real."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from edgefleet.contracts.errors import ExitStatus

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: edgefleet demo --once --seed 7")
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the last story, and say how they ended.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeat a run's random choices.", min=0)] = None,
    simulated: Annotated[
        int, typer.Option("--simulated", help="Simulated devices beside the four agents.", min=20, max=400)
    ] = 40,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Write everything to this new folder, and leave it there.")
    ] = None,
    broker: Annotated[
        Literal["mosquitto", "amqtt"] | None,
        typer.Option("--broker", help="The broker to start; mosquitto where it is installed, else amqtt."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Convert, approve and roll out a model to a fleet on this machine; four failures meet four defenders."""
    import random
    import signal
    import tempfile

    from edgefleet.contracts.errors import ConflictError
    from fleet_emulation.demo.report import render
    from fleet_emulation.demo.run import DemoOptions, run_demo

    if keep is not None and keep.exists():
        raise ConflictError(f"'{keep}' exists already", hint="name a new folder with --keep")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all that was started is stopped either way
    chosen = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="edgefleet-demo-") as temporary:
        folder = keep.resolve() if keep is not None else Path(temporary) / "demo"
        options = DemoOptions(folder=folder, seed=chosen, simulated=simulated, once=once, broker_kind=broker)
        report = run_demo(options)
    emit(report, as_json=json_output, human=lambda: render(report))
    if not report.all_as_told:
        raise typer.Exit(int(ExitStatus.FAILED))
