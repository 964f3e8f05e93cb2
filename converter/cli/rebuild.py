# SPDX-License-Identifier: Apache-2.0
"""``edgefleet convert --rebuild X.bundle``: make a bundle again and say what differs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgefleet.cli.output import emit, progress
from edgefleet.contracts.errors import ExitStatus, InputError

if TYPE_CHECKING:
    from converter.rebuilding import Difference


def run_rebuild(
    bundle: Path, *, source: str | None, useless: Mapping[str, object], as_json: bool, **sources: Any
) -> None:
    """Print the difference; leave with status 3 if there is one. ``sources`` are :func:`converter.rebuild`'s.

    Raises:
        InputError: no source is named, or one of the ``useless`` options.
        EdgeFleetError: see :func:`converter.rebuild`.
    """
    if source is None:
        raise InputError("--rebuild needs the model that the bundle was made from", hint="name it: --source MODEL")
    for option, value in useless.items():
        if value is not None:
            raise InputError(
                f"{option} has no meaning with --rebuild, which compares and writes nothing",
                hint="leave it out: a bundle that was searched for carries the recipe that was found",
            )
    found = _found(bundle, source, sources)
    from converter.rebuilding import describe_difference

    emit(found, as_json=as_json, human=lambda: describe_difference(found))
    if not found.same:
        raise typer.Exit(ExitStatus.REFUSED)


def _found(bundle: Path, source: str, sources: Mapping[str, Any]) -> "Difference":
    """Make it again in a fork, as it was made the first time."""
    from converter.adapters.containment import contained
    from converter.api import rebuild

    def run() -> "Difference":
        with progress(f"making {bundle.name} again"):
            return rebuild(bundle, source=source, **sources)

    return contained(run)
