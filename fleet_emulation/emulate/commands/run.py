# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate run``: a bundle's model on an emulated board, with what it costs there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or an int8 model.", metavar="B.bundle")],
    batch: Annotated[
        Path,
        typer.Option(
            "--input", help="A batch in the model's input type, first axis samples; an .npz for several inputs."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Where the raw outputs go, as .npy.")],
    profile: Annotated[
        str | None, typer.Option("--profile", help="A board's id or file; by default the bundle's.", metavar="ID|FILE")
    ] = None,
    numerics: Annotated[
        Literal["tflm/1", "litert/1"] | None,
        typer.Option("--numerics", help="How results are rounded; by default as the bundle, or the board, says."),
    ] = None,
    reset_state: Annotated[
        Literal["each", "never"],
        typer.Option("--reset-state", help="Whether state variables begin anew with each sample."),
    ] = "each",
    compiler: Annotated[
        Literal["gcc", "zig"] | None, typer.Option("--compiler", help="By default the one that is installed.")
    ] = None,
    updatable: Annotated[
        bool, typer.Option("--updatable", help="Build firmware that reads its model through a slot pointer.")
    ] = False,
    cost: Annotated[
        Path | None,
        typer.Option("--cost", help="A cost model of 'emulate calibrate', for cycles.", metavar="FILE.toml"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate C for a board, build it, run it in QEMU on a batch, and count what an inference costs.

    Instructions, loads and stores are those of the most expensive sample; stack is the deepest seen. The processor is
    emulated instruction by instruction: counts are exact and the same in every run, and they are not cycles.
    """
    from converter.adapters.containment import contained
    from fleet_emulation.emulate.running import BoardOptions, run_on_board
    from fleet_emulation.emulate.text import run_text

    options = BoardOptions(profile, numerics, compiler, updatable=updatable, reset_state=reset_state, cost=cost)
    done = contained(lambda: run_on_board(bundle, batch, output, options))
    emit(done, as_json=as_json, human=lambda: run_text(done))
