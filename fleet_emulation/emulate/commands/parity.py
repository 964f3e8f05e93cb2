# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate parity``: the same model on this machine, on arm64 and on a microcontroller, layer by layer."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from edgefleet.contracts.errors import ExitStatus


def parity(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or an int8 model.", metavar="X.bundle")],
    profile: Annotated[
        str | None, typer.Option("--profile", help="The board; by default the bundle's.", metavar="ID|FILE")
    ] = None,
    numerics: Annotated[
        Literal["tflm/1", "litert/1"] | None,
        typer.Option("--numerics", help="How results are rounded; by default as the bundle, or the board, says."),
    ] = None,
    compiler: Annotated[
        Literal["gcc", "zig"] | None, typer.Option("--compiler", help="By default the one that is installed.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Do not fail where a place's programs are not installed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a model everywhere on reference kernels, and name the first layer that differs.

    A bundle's parity vectors are the samples. The reference is TFLM, or LiteRT's reference kernels, as the bundle's
    numerics say. A difference ends with status 1, and so does a place whose programs are not installed.
    """
    from converter.adapters.containment import contained
    from fleet_emulation.emulate.parity import compare
    from fleet_emulation.emulate.running import BoardOptions
    from fleet_emulation.emulate.text import parity_text

    options = BoardOptions(profile=profile, numerics=numerics, compiler=compiler)
    document = contained(lambda: compare(bundle, options))
    emit(document, as_json=as_json, human=lambda: parity_text(document))
    if not document.same or (not document.complete and not allow_missing):
        raise typer.Exit(int(ExitStatus.FAILED))
