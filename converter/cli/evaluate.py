# SPDX-License-Identifier: Apache-2.0
"""``edgefleet evaluate``: score a bundle's model on labelled samples."""

from pathlib import Path
from typing import Annotated

import typer

from edgefleet.cli.options import JsonOption
from edgefleet.cli.output import emit

app = typer.Typer()


@app.command(epilog="Example: edgefleet evaluate dist/person-1.0.0-raspberry-pi-4.bundle labelled/ --json")
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.", metavar="B.bundle")],
    samples: Annotated[
        Path, typer.Argument(help="Labelled samples, as 'edgefleet convert --evaluation' takes them.", metavar="P")
    ],
    metric: Annotated[
        str | None, typer.Option(metavar="NAME|module:function", help="Another metric of the task, or your own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a bundle's model on labelled samples, with the bundle's own preprocessing."""
    from converter.adapters.user_code.metrics import recorded_metric
    from converter.verification import evaluate_bundle
    from edgefleet.contracts.bundle import open_bundle

    chosen = recorded_metric(metric, open_bundle(bundle).manifest, source=bundle.name)
    score = evaluate_bundle(bundle, samples, chosen)
    document = {
        "samples": score.samples,
        "metric": score.metric,
        "value": score.value,
        "per_class": score.per_class,
    }
    emit(document, as_json=as_json, human=lambda: f"{score.metric} {score.value:.4f} on {score.samples} samples")
