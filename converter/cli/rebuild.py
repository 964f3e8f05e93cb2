# SPDX-License-Identifier: Apache-2.0
"""``edgefleet convert --rebuild X.bundle``: make a bundle again and say what differs."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgefleet.cli.output import emit, progress
from edgefleet.contracts.errors import ExitStatus, InputError

if TYPE_CHECKING:
    from converter.core.recipe import Recipe


def run_rebuild(
    bundle: Path,
    *,
    source: Path | None,
    profile: str | None,
    metric: str | None,
    recipe: "Recipe | None",
    calibration: Path | None,
    evaluation: Path | None,
    acceptance: Path | None,
    now: datetime,
    as_json: bool,
) -> None:
    """Print the difference; leave with status 3 if there is one. ``profile`` absent means the bundle's own id.

    Raises:
        InputError: no source is named, or the bundle's metric is its maker's own and was not named.
        EdgeFleetError: see :func:`converter.rebuild.rebuild`.
    """
    from converter.adapters.user_code.metrics import load_metric
    from converter.rebuild import RebuildSources, describe_difference, rebuild
    from edgefleet.contracts.bundle import open_bundle
    from firmware_profiles import load_profile

    manifest = open_bundle(bundle).manifest
    if source is None:
        raise InputError("--rebuild needs the model that the bundle was made from", hint="name it: --source MODEL")
    if metric is None and ":" in manifest.metric:  # a bundle may come from anywhere: it never chooses what is imported
        raise InputError(
            f"'{bundle.name}' was scored with a metric of its maker's own, '{manifest.metric}'",
            hint=f"if you have that code and trust it, name it: --metric {manifest.metric}",
        )
    sources = RebuildSources(
        model=source,
        profile=load_profile(profile or manifest.profile.id),
        metric=load_metric(metric or manifest.metric, manifest.task),
        recipe=recipe,
        calibration=calibration,
        evaluation=evaluation,
        acceptance=acceptance,
    )
    with progress(f"making {bundle.name} again"):
        found = rebuild(bundle, sources, now=now)
    emit(found, as_json=as_json, human=lambda: describe_difference(found))
    if not found.same:
        raise typer.Exit(ExitStatus.REFUSED)
