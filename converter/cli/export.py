# SPDX-License-Identifier: Apache-2.0
"""``edgefleet export``: models as C, for other builds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

if TYPE_CHECKING:
    from converter.c.exports import Export

app = typer.Typer()


@app.command(epilog="Example: edgefleet export dist/kws-1.0.0-nrf52840-dk.bundle --format zephyr --out modules/kws")
def export(
    models: Annotated[
        list[Path], typer.Argument(help="Bundles or int8 models; all go into one folder.", metavar="BUNDLE|MODEL...")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    profile: Annotated[
        str | None, typer.Option(metavar="ID", help="The board that the code is for. Default: the bundle's.")
    ] = None,
    form: Annotated[
        Literal["c", "cmake", "zephyr"],
        typer.Option("--format", help="A C library, a CMake project, or a Zephyr module."),
    ] = "c",
    numerics: Annotated[
        Literal["tflm/1", "litert/1"] | None,
        typer.Option(help="How the code rounds. Default: as the bundle or the board says."),
    ] = None,
    parity_vectors: Annotated[
        int, typer.Option(metavar="N", min=0, help="Put at most N of a bundle's parity vectors into its blob.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write models as C with the kernels that they need, and say what they take."""
    from converter.adapters.containment import contained
    from converter.c.exports import export as write

    done = contained(
        lambda: write(models, profile=profile, numerics=numerics, form=form, out=out, parity_vectors=parity_vectors)
    )
    emit(done, as_json=as_json, human=lambda: _described(done))


def _described(done: "Export") -> str:
    lines = [
        f"{model.name}: {model.blob_bytes:,} bytes of flash for the blob, {model.arena_bytes:,} bytes of RAM "
        f"(scratch {model.scratch_bytes:,}, state {model.state_bytes:,}), {model.layers} layers, {model.macs:,} MACs"
        for model in done.models
    ]
    return "\n".join([*lines, f"{done.out}: {len(done.files)} files for {done.profile} ({done.kernel_set} kernels)"])
