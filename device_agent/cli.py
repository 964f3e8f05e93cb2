# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent``: the device's own command line, with the standard library's argument parser only."""

import json
import sys
from collections.abc import Callable, Sequence

from device_agent.commands import (
    config,
    diagnose,
    doctor,
    enrol,
    feedback,
    hold,
    import_update,
    run,
    software,
    status,
    tuf_client,
)
from device_agent.commands.verbs import Parser
from edgefleet.contracts.errors import EdgeFleetError, ExitStatus, missing_extra

_EPILOG = """\
exit status: 0 done, 1 failed, 2 wrong usage, 3 refused (a check said no), 4 not allowed
"""
#: In the order of ``--help``.
_VERBS = (enrol, run, status, feedback, hold, import_update, doctor, diagnose, config, software, tuf_client)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        options = _parser().parse_args(given)
        command: Callable[..., None] = options.command
        command(options)
    except EdgeFleetError as error:
        _print_error(error, as_json=as_json)
        return int(error.exit_status)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("device_agent", "edgefleet"):
            raise
        _print_error(missing_extra("device", "'edgefleet-agent'"), as_json=as_json)
        return int(ExitStatus.FAILED)
    except BrokenPipeError:
        return int(ExitStatus.FAILED)
    return int(ExitStatus.DONE)


def _parser() -> Parser:
    parser = Parser(prog="edgefleet-agent", description="The agent of one device.", epilog=_EPILOG)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    for verb in _VERBS:
        verb.add(verbs)
    return parser


def _print_error(error: EdgeFleetError, *, as_json: bool) -> None:
    if not as_json:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return
    facts = {"code": error.code, "message": error.message, "hint": error.hint, "exit_status": int(error.exit_status)}
    print(json.dumps({"error": facts}))  # noqa: T201  the command's one output
