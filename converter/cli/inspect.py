# SPDX-License-Identifier: Apache-2.0
"""``edgefleet inspect``: the facts of a bundle or of a model file."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

app = typer.Typer()


@app.command(epilog="Example: edgefleet inspect dist/person-1.0.0-raspberry-pi-4.bundle --svg graph.svg")
def inspect(
    file: Annotated[
        Path, typer.Argument(help="A bundle, or a model as 'edgefleet convert' takes it.", metavar="B.bundle|MODEL")
    ],
    svg: Annotated[Path | None, typer.Option(metavar="OUT.svg", help="Draw the graph here, as a picture.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle or model holds: operators with versions, tensors, sizes, and the bundle's manifest."""
    from converter.adapters.containment import contained
    from converter.adapters.output_files import write_whole
    from converter.inspection import describe, inspect_and_draw

    found, picture = contained(lambda: inspect_and_draw(file))
    if svg is not None:
        write_whole(svg, picture)
    emit(found, as_json=as_json, human=lambda: describe(found))
