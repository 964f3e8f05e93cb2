# SPDX-License-Identifier: Apache-2.0
"""``edgefleet``: finds the verbs in the entry-point group ``edgefleet.commands`` and loads one when it is used."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from edgefleet.contracts.errors import EdgeFleetError, ExitStatus, InputError, MissingExtraError, StorageError
from edgefleet.version import __version__

GROUP = "edgefleet.commands"
#: The order in which help shows the verbs: the order of the work.
_ORDER = (
    "demo", "doctor", "profiles", "convert", "inspect", "verify", "evaluate", "run", "export",
    "keys", "server", "login", "devices", "releases", "rollouts", "audit", "emulate",
)  # fmt: skip
#: Which extra brings the packages of each verb's room.
_EXTRAS = {
    "edgefleet": "converter",
    "firmware_profiles": "converter",
    "converter": "converter",
    "fleet_server": "server",
    "fleet_emulation": "demo",
}
_OWN_PACKAGES = (*_EXTRAS, "device_agent")
_HELP = """\
Usage: edgefleet COMMAND [OPTIONS] [ARGUMENTS]

Take a trained model to a fleet of edge devices, and bring the evidence back.

Commands:
{commands}

Every command has --help with an example, and --json for one JSON document on standard output.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused (a check said no), 4 not allowed,
5 the rollout was halted or rolled back.

Example: edgefleet demo
"""


def main() -> None:
    """Run the command line and exit with a documented status."""
    sys.exit(run(sys.argv[1:], verbs()))


def run(arguments: Sequence[str], points: Mapping[str, EntryPoint]) -> int:
    """Run one command and return its exit status; expected failures are printed, never raised."""
    try:
        return _dispatch(list(arguments), points)
    except EdgeFleetError as error:
        from edgefleet.cli.output import emit_error

        emit_error(error, as_json="--json" in arguments)
        return int(error.exit_status)
    except OSError as error:
        from edgefleet.cli.output import emit_error

        refusal = _refusal_of_the_system(error)
        emit_error(refusal, as_json="--json" in arguments)
        return int(refusal.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _refusal_of_the_system(error: OSError) -> StorageError:
    """Tell what the operating system refused, where no room had words of its own for it."""
    where = f"'{error.filename}': " if error.filename else ""
    return StorageError(
        f"the system refuses {where}{error.strerror or error}", hint="check paths, permissions and free space"
    )


def verbs() -> dict[str, EntryPoint]:
    """Return the installed verbs by name, in the order of the work."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    known = [name for name in _ORDER if name in found]
    return {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}


def _dispatch(arguments: list[str], points: Mapping[str, EntryPoint]) -> int:
    from edgefleet.cli.output import write_out

    first = arguments[0] if arguments else ""
    if first in ("", "--help", "-h", "help"):
        write_out(_HELP.format(commands=_describe(points)))
        return int(ExitStatus.DONE if first else ExitStatus.WRONG_USAGE)
    if first == "--version":
        write_out(f"edgefleet {__version__}\n")
        return int(ExitStatus.DONE)
    if first not in points:
        raise InputError(f"'{first}' is not a command of edgefleet", hint="see: edgefleet --help")
    return _run_verb(points[first], arguments[1:])


def _run_verb(point: EntryPoint, arguments: list[str]) -> int:
    """Load a verb's ``typer.Typer`` application and run it."""
    room = point.module.partition(".")[0]
    try:
        from edgefleet.cli.typer_adapter import run_app

        return run_app(point.load(), arguments, name=f"edgefleet {point.name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OWN_PACKAGES:
            raise
        raise MissingExtraError(
            f"'edgefleet {point.name}' needs the Python package '{error.name}', which is not installed",
            hint=f"run: pip install 'edgefleet[{_EXTRAS.get(room, 'demo')}]'",
        ) from error


def _describe(points: Mapping[str, EntryPoint]) -> str:
    width = max((len(name) for name in points), default=0)
    return "\n".join(f"  {name:{width}}  {_summary(point)}" for name, point in points.items())


def _summary(point: EntryPoint) -> str:
    """Return the first sentence of a verb's help, or what is missing to load it."""
    try:
        from edgefleet.cli.typer_adapter import summary

        return summary(point.load())
    except ModuleNotFoundError:
        return f"(pip install 'edgefleet[{_EXTRAS.get(point.module.partition('.')[0], 'demo')}]')"
