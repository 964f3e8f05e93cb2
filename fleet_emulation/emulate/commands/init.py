# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate init``: begin a project that tests a model on an emulated board, in anyone's CI."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.", metavar="FOLDER")],
    profile: Annotated[
        str, typer.Option("--profile", help="An emulated board's id or file.", metavar="ID|FILE")
    ] = "mps2-an386",
    model: Annotated[
        Path | None,
        typer.Option("--model", help="An int8 model; by default a small one of digits.", metavar="M.tflite"),
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option("--wheel", help="EdgeFleet's own wheel, to be kept in the project.", metavar="W.whl"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a project: a model, tests on an emulated board, a baseline of what it costs, and CI for GitHub and GitLab.

    The model runs on the board once. Its outputs must be those of the reference interpreter.
    """
    from fleet_emulation.emulate.init import begin

    begun = begin(folder, profile=profile, model=model, wheel=wheel)
    figures = ", ".join(f"{name} {value:,}" for name, value in begun.figures.items())
    text = (
        f"{begun.folder}: {begun.model} on {begun.profile}, {begun.samples} samples as the reference answers them\n"
        f"baseline, {begun.compiler}: {figures}\n"
        f"go on with: cd {shlex.quote(begun.folder)} && python -m pytest"
    )
    emit(begun, as_json=as_json, human=text)
