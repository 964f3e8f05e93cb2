# SPDX-License-Identifier: Apache-2.0
"""What every verb has: the data folder, ``--json``, an example, and one way to print."""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from edgefleet.contracts.errors import FileMissingError, InputError, NotAllowedError


class Parser(argparse.ArgumentParser):
    """Raises wrong usage as EdgeFleet's error, so that it is printed in one way."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Refuse wrong usage."""
        raise InputError(message, hint=f"see: {self.prog} --help")


def add_verb(
    verbs: "argparse._SubParsersAction[Parser]",
    name: str,
    what: str,
    command: Callable[[argparse.Namespace], None],
    example: str,
) -> argparse.ArgumentParser:
    """Hang a verb on the command line, with ``--data`` and ``--json``; ``command`` gets its options."""
    verb = add_plain_verb(verbs, name, what, command, example)
    verb.add_argument("--data", type=Path, required=True, help="the device's data folder")
    return verb


def add_group(
    verbs: "argparse._SubParsersAction[Parser]", name: str, what: str
) -> "argparse._SubParsersAction[Parser]":
    """Hang a word on the command line that takes a verb of its own, and return where those hang."""
    group = verbs.add_parser(name, help=what, description=what)
    return group.add_subparsers(required=True, metavar="VERB", parser_class=Parser)


def add_plain_verb(
    verbs: "argparse._SubParsersAction[Parser]",
    name: str,
    what: str,
    command: Callable[[argparse.Namespace], None],
    example: str,
) -> argparse.ArgumentParser:
    """Hang a verb that needs no data folder; ``name`` is as on the command line, its group before it."""
    last = name.rpartition(" ")[2]
    verb = verbs.add_parser(last, help=what, description=what, epilog=f"example: edgefleet-agent {name} {example}")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    verb.set_defaults(command=command)
    return verb


def emit(document: Mapping[str, object], human: str, *, as_json: bool) -> None:
    """Print the command's one output."""
    print(json.dumps(document) if as_json else human)  # noqa: T201  the command's one output


def existing_folder(data: Path) -> Path:
    """Return the data folder with its whole path, for verbs that also serve a device that is not enrolled.

    Raises:
        FileMissingError: there is no such folder; it is not made.
        NotAllowedError: this user may not look into it.
    """
    try:
        there, readable = data.is_dir(), os.access(data, os.R_OK | os.X_OK, effective_ids=True)
    except PermissionError:  # a folder above it may not be entered
        there, readable = True, False
    if not there:
        raise FileMissingError(f"there is no folder '{data}'", hint="name the device's data folder")
    if not readable:
        raise NotAllowedError(f"'{data}' may not be read by this user", hint="run it as root, or as the agent's user")
    return data.resolve()


def positive(text: str) -> float:
    """Read a number greater than zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number greater than zero")
    return value
