# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent``: the device's own command line, with the standard library's argument parser only."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError, ExitStatus, InputError, missing_extra

_EPILOG = """\
exit status: 0 done, 1 failed, 2 wrong usage, 3 refused (a check said no), 4 not allowed
"""


class _Parser(argparse.ArgumentParser):
    """Raises wrong usage as EdgeFleet's error, so that it is printed in one way."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(message, hint=f"see: {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        options = _parser().parse_args(given)
        command: Callable[[argparse.Namespace], None] = options.command
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edgefleet-agent", description="The agent of one device.", epilog=_EPILOG)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    enrol = _verb(
        verbs, "enrol", "join a fleet with a ticket", _enrol, "--ticket ticket.json --data /var/lib/edgefleet"
    )
    enrol.add_argument("--ticket", type=Path, required=True, help="the ticket from 'edgefleet devices invite'")

    run = _verb(verbs, "run", "run the agent until it is told to stop", _run, "--data /var/lib/edgefleet")
    run.add_argument("--config", type=Path, help="settings in TOML")
    run.add_argument(
        "--time-scale",
        type=_positive,
        default=1.0,
        help="divide all durations of policy and settings by this (60: an hour takes a minute); for emulation",
    )
    run.add_argument("--poll", type=_positive, metavar="SECONDS", help="ask the director this often")

    _verb(verbs, "status", "show what the device runs", _status, "--data /var/lib/edgefleet --json")

    example = "--data /var/lib/edgefleet 4294967297 cat"
    feedback = _verb(verbs, "feedback", "say what an earlier answer should have been", _feedback, example)
    feedback.add_argument("--config", type=Path, help="settings in TOML, where they name another socket")
    feedback.add_argument("request_id", type=_request_id, help="the number that came with the answer")
    feedback.add_argument("label", help="the right label, or its class number")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[_Parser]",
    name: str,
    what: str,
    command: Callable[[argparse.Namespace], None],
    example: str,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=what, epilog=f"example: edgefleet-agent {name} {example}")
    verb.add_argument("--data", type=Path, required=True, help="the device's data folder")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    verb.set_defaults(command=command)
    return verb


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number greater than zero")
    return value


def _request_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise argparse.ArgumentTypeError(f"'{text[:100]}' is no request id")
    return int(text)


def _enrol(options: argparse.Namespace) -> None:
    from device_agent.adapters.enrolment import enrol, read_ticket
    from device_agent.adapters.identity import DataFolder

    identity = enrol(read_ticket(options.ticket), DataFolder(options.data.resolve()))
    document = {"device": identity.device, "tenant": identity.tenant, "profile": identity.profile}
    _print(document, f"enrolled as {identity.device} of {identity.tenant}", as_json=options.json)


def _run(options: argparse.Namespace) -> None:
    import logging

    from device_agent.field import RunOptions, run
    from device_agent.settings import read_settings

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    settings = read_settings(options.config)
    wanted = RunOptions(data=options.data, settings=settings, time_scale=options.time_scale, poll_s=options.poll)
    run(wanted, lambda line: print(line, flush=True))  # noqa: T201  the line that callers wait for


def _status(options: argparse.Namespace) -> None:
    import msgspec

    from device_agent.adapters.identity import DataFolder
    from device_agent.adapters.state_file import read_record
    from device_agent.core.record import DeviceRecord

    folder = DataFolder(options.data)
    identity = folder.read_identity()
    record = read_record(folder.state) or DeviceRecord()
    document = {
        "device": identity.device,
        "tenant": identity.tenant,
        "profile": identity.profile,
        "status": record.status,
        "counter": record.counter,
        "active": msgspec.to_builtins(record.active),
        "candidate": msgspec.to_builtins(record.candidate),
        "previous": msgspec.to_builtins(record.previous),
        "progress": msgspec.to_builtins(record.progress),
        "quarantine": list(record.quarantine),
    }
    active = f"{record.active.name} {record.active.version}" if record.active else "no model"
    _print(document, f"{identity.device}: {record.status}, {active}", as_json=options.json)


def _feedback(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity import DataFolder
    from device_agent.client import InferenceClient
    from device_agent.settings import read_settings

    settings = read_settings(options.config)
    path = settings.socket or DataFolder(options.data.resolve()).socket
    with InferenceClient(path) as client:
        answer = client.feedback(options.request_id, options.label)
    if answer.status != "ok":
        raise InputError(answer.detail, hint="give the request id of a recent answer, and a label of the model")
    document = {"request_id": answer.request_id, "predicted": answer.top_class}
    _print(document, "counted", as_json=options.json)


def _print(document: Mapping[str, object], human: str, *, as_json: bool) -> None:
    print(json.dumps(document) if as_json else human)  # noqa: T201  the command's one output


def _print_error(error: EdgeFleetError, *, as_json: bool) -> None:
    if not as_json:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return
    facts = {"code": error.code, "message": error.message, "hint": error.hint, "exit_status": int(error.exit_status)}
    _print({"error": facts}, "", as_json=True)
