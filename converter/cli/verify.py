# SPDX-License-Identifier: Apache-2.0
"""``edgefleet verify``: check a bundle as a device would."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

app = typer.Typer()


@app.command(epilog="Example: edgefleet verify dist/person-1.0.0-raspberry-pi-4.bundle --profile raspberry-pi-4")
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.", metavar="B.bundle")],
    profile: Annotated[str | None, typer.Option(metavar="ID|FILE.toml", help="The board it is to run on.")] = None,
    provenance_key: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="Check the signed provenance beside it (.intoto.jsonl) with this public key."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle: format and hashes, board, parity vectors with both kernel sets, acceptance, provenance."""
    from converter.adapters.containment import contained
    from converter.api import verify as run_verification

    done = contained(lambda: run_verification(bundle, profile=profile, provenance_key=provenance_key))
    emit(
        done,
        as_json=as_json,
        human=lambda: "\n".join(
            [
                f"{done.bundle} is sound: {done.name} {done.version} for {done.profile}",
                *(f"  {check.name}: {check.result}" for check in done.checks),
            ]
        ),
    )
