# SPDX-License-Identifier: Apache-2.0
"""``edgefleet``: finds the verbs in the entry-point group ``edgefleet.commands`` and loads one when it is used."""

import sys
from importlib.metadata import EntryPoint, entry_points, version

from edgefleet.contracts.errors import EdgeFleetError, ExitStatus, MissingExtraError

GROUP = "edgefleet.commands"
#: The order in which help shows the verbs: the order of the work.
_ORDER = (
    "demo", "doctor", "profiles", "convert", "inspect", "verify", "evaluate", "run",
    "keys", "server", "login", "devices", "releases", "rollouts", "audit", "emulate",
)  # fmt: skip
#: Which extra brings the packages of each verb's room.
_EXTRAS = {
    "converter": "converter",
    "fleet_server": "server",
    "fleet_emulation": "demo",
    "firmware_profiles": "converter",
}


def main() -> None:
    """Run the command line and exit with a documented status."""
    try:
        import typer
    except ImportError:
        sys.stderr.write(
            "error: the command 'edgefleet' needs one of the extras converter, server or demo\n"
            "hint: run: pip install 'edgefleet[converter]' (a device uses 'edgefleet-agent')\n"
        )
        sys.exit(int(ExitStatus.FAILED))
    del typer
    from edgefleet.cli.front_door import run

    sys.exit(run(sys.argv[1:], verbs()))


def verbs() -> dict[str, EntryPoint]:
    """Return the installed verbs by name, in the order of the work."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    known = [name for name in _ORDER if name in found]
    return {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}


def load(point: EntryPoint) -> object:
    """Load a verb's ``typer.Typer`` application.

    Raises:
        MissingExtraError: a package that its room needs is not installed.
    """
    try:
        return point.load()
    except ModuleNotFoundError as error:
        raise missing_package(error, point.module.partition(".")[0], f"'edgefleet {point.name}'") from error


def missing_package(error: ModuleNotFoundError, room: str, needed_for: str) -> EdgeFleetError:
    """Turn a failed import into the one sentence that names the extra; our own modules are never missing."""
    extra = _EXTRAS.get(room, "demo")
    return MissingExtraError(
        f"{needed_for} needs the Python package '{error.name}', which is not installed",
        hint=f"run: pip install 'edgefleet[{extra}]'",
    )


def distribution_version() -> str:
    """Return the installed version of EdgeFleet."""
    return version("edgefleet")
