# SPDX-License-Identifier: Apache-2.0
"""Runs a room's ``typer.Typer`` application in the front door's terms: our errors, our exit statuses."""

from typing import Any

import typer
from typer.main import get_command

from edgefleet.contracts.errors import InputError

_INTERRUPTED = 130


def run_app(app: typer.Typer, arguments: list[str], *, name: str) -> int:
    """Run an application and return its exit status.

    Raises:
        InputError: an option or argument is wrong.
        EdgeFleetError: whatever the command itself raises.
    """
    try:
        result = command_of(app).main(args=arguments, prog_name=name, standalone_mode=False)
    except typer.TyperException as error:  # every usage error derives from it
        usage = error.format_message() or "a command is missing"
        raise InputError(f"{name}: {usage}", hint=f"see: {name} --help") from error
    except typer.Abort as error:
        raise InputError(
            f"{name}: stopped, nothing was confirmed", hint="answer the question with y, or use --yes"
        ) from error
    if result == _INTERRUPTED:  # Typer has made a status of Ctrl-C, without a word
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def summary(app: typer.Typer) -> str:
    """Return the first line of an application's help."""
    short: str = command_of(app).get_short_help_str(limit=90)
    return short


def command_of(app: typer.Typer) -> Any:  # Typer's own command class, which it does not export
    """Return an application's command tree, as the front door shows it.

    Without the completion options, which only a program of its own can keep, and with help as plain text: Rich's
    markup would swallow what stands in brackets, such as the extra in ``edgefleet[demo]``.
    """
    app._add_completion = False
    app.rich_markup_mode = None
    return get_command(app)
