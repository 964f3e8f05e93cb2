# SPDX-License-Identifier: Apache-2.0
"""``edgefleet inspect``: the facts of a bundle, of a model file, or of a model blob."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit
from edgefleet.contracts.errors import InputError

app = typer.Typer()


@app.command(epilog="Example: edgefleet inspect dist/person-1.0.0-raspberry-pi-4.bundle --svg graph.svg")
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="A bundle, a model as 'edgefleet convert' takes it, or a model blob.", metavar="B.bundle|MODEL|M.blob"
        ),
    ],
    svg: Annotated[Path | None, typer.Option(metavar="OUT.svg", help="Draw the graph here, as a picture.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle, model or model blob holds: operators or layers, tensors, sizes, a bundle's manifest."""
    from converter.c.blob_inspection import is_blob

    if is_blob(file):
        _show_blob(file, svg, as_json=as_json)
    else:
        _show_model(file, svg, as_json=as_json)


def _show_blob(file: Path, svg: Path | None, *, as_json: bool) -> None:
    from converter.c.blob_inspection import describe_blob, inspect_blob

    if svg is not None:
        raise InputError(
            "a model blob has no graph to draw: it knows layers and arena offsets", hint="draw the model or bundle"
        )
    found = inspect_blob(file)
    emit(found, as_json=as_json, human=lambda: describe_blob(found))


def _show_model(file: Path, svg: Path | None, *, as_json: bool) -> None:
    from converter.adapters.containment import contained
    from converter.adapters.output_files import write_whole
    from converter.inspection import describe, inspect_and_draw

    found, picture = contained(lambda: inspect_and_draw(file))
    if svg is not None:
        write_whole(svg, picture)
    emit(found, as_json=as_json, human=lambda: describe(found))
