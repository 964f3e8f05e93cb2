# SPDX-License-Identifier: Apache-2.0
"""``edgefleet inspect``: the facts of a bundle or of a model file."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

app = typer.Typer()


@app.command(epilog="Example: edgefleet inspect dist/person-1.0.0-raspberry-pi-4.bundle --json")
def inspect(
    file: Annotated[Path, typer.Argument(help="A bundle or a .tflite file.", metavar="B.bundle|MODEL.tflite")],
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle or model holds: operators with versions, tensors, sizes, and the bundle's manifest."""
    from converter.inspection import describe, inspect_file

    found = inspect_file(file)
    emit(found, as_json=as_json, human=lambda: describe(found))
