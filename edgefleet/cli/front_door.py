# SPDX-License-Identifier: Apache-2.0
"""The click group behind ``edgefleet``: lazy verbs, one way to print errors, documented exit statuses."""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint

import click
import typer

from edgefleet.cli.main import distribution_version, load, missing_package
from edgefleet.cli.output import emit_error
from edgefleet.contracts.errors import EdgeFleetError, ExitStatus, InputError

_EPILOG = (
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused (a check said no), 4 not allowed, "
    "5 the rollout was halted or rolled back. Example: edgefleet demo"
)


class LazyVerbs(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, points: Mapping[str, EntryPoint]) -> None:
        super().__init__(
            name="edgefleet",
            help="Take a trained model to a fleet of edge devices, and bring the evidence back.",
            epilog=_EPILOG,
            params=[_version_option()],
        )
        self._points = points

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, D102
        return list(self._points)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: D102
        if cmd_name not in self._points:
            return None
        try:
            app = load(self._points[cmd_name])
        except EdgeFleetError as error:
            if ctx.resilient_parsing or not ctx.args and not ctx.protected_args:
                return click.Command(cmd_name, short_help=f"({error.hint})")
            raise
        assert isinstance(app, typer.Typer), f"{cmd_name} is not a typer.Typer"  # noqa: S101
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command


def _version_option() -> click.Option:
    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            click.echo(f"edgefleet {distribution_version()}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version and exit."
    )


def run(arguments: Sequence[str], points: Mapping[str, EntryPoint]) -> int:
    """Run one command and return its exit status; expected failures are printed, never raised."""
    as_json = "--json" in arguments
    try:
        result = LazyVerbs(points).main(list(arguments), prog_name="edgefleet", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return int(ExitStatus.WRONG_USAGE)
    except click.UsageError as error:
        return _usage(error, as_json=as_json)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except EdgeFleetError as error:
        emit_error(error, as_json=as_json)
        return int(error.exit_status)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("edgefleet"):
            raise
        verb = next((word for word in arguments if word in points), "")
        room = points[verb].module.partition(".")[0] if verb else ""
        emit_error(missing_package(error, room, f"'edgefleet {verb}'"), as_json=as_json)
        return int(ExitStatus.FAILED)
    return result if isinstance(result, int) else int(ExitStatus.DONE)


def _usage(error: click.UsageError, *, as_json: bool) -> int:
    if not as_json and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    command = error.ctx.command_path if error.ctx is not None else "edgefleet"
    emit_error(InputError(error.format_message(), hint=f"see: {command} --help"), as_json=as_json)
    return int(ExitStatus.WRONG_USAGE)
