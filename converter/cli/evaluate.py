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
    samples: Annotated[Path, typer.Argument(help="Labelled samples: a folder or an .npz.", metavar="P")],
    metric: Annotated[
        str | None, typer.Option(metavar="NAME|module:function", help="Another metric of the task, or your own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a bundle's model on labelled samples, with the bundle's own preprocessing."""
    from converter.adapters.user_code.metrics import load_metric
    from converter.verification import evaluate_bundle
    from edgefleet.contracts.bundle import open_bundle
    from edgefleet.contracts.errors import InputError

    manifest = open_bundle(bundle).manifest
    if metric is None and ":" in manifest.metric:  # a bundle may come from anywhere: it never chooses what is imported
        raise InputError(
            f"'{bundle.name}' was scored with a metric of its maker's own, '{manifest.metric}'",
            hint=f"if you have that code and trust it, name it: --metric {manifest.metric}",
        )
    score = evaluate_bundle(bundle, samples, load_metric(metric or manifest.metric, manifest.task))
    document = {
        "samples": score.samples,
        "metric": score.metric,
        "value": score.value,
        "per_class": score.per_class,
    }
    emit(document, as_json=as_json, human=lambda: f"{score.metric} {score.value:.4f} on {score.samples} samples")
