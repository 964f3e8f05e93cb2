# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent software``: the agent's own software, as wheel sets that are tried like a model."""

import argparse
import re
from pathlib import Path

from device_agent.commands.verbs import Parser, add_group, add_verb, emit, existing_folder
from edgefleet.contracts.errors import FileMissingError


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verbs on the command line."""
    group = add_group(verbs, "software", "the agent's own software")
    example = "agent.wheels --sha256 9f86d081… --data /var/lib/edgefleet"
    what = "verify a wheel set, see that it runs here, and try it from the next start on"
    install = add_verb(group, "software install", what, _install, example)
    install.add_argument("file", type=Path, metavar="FILE", help="a wheel set")
    install.add_argument("--sha256", required=True, type=_sha256, help="its SHA-256, from whom you trust")
    install.add_argument("--version", help="the release of edgefleet-agent that it must be (default: any set)")
    what = "show what is active, on trial, and bad"
    add_verb(group, "software status", what, _status, "--data /var/lib/edgefleet")


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"'{text[:100]}' is no SHA-256 of 64 lower case hexadecimal digits")
    return text


def _install(options: argparse.Namespace) -> None:
    from device_agent.adapters.system.software_slots import SoftwareSlots

    if not options.file.is_file():
        raise FileMissingError(f"there is no file '{options.file}'", hint="check the path")
    facts = SoftwareSlots(existing_folder(options.data)).install(options.file, options.sha256, version=options.version)
    document = {"name": facts.name, "version": facts.version, "sha256": options.sha256}
    emit(document, f"{facts.name} {facts.version} is tried at the agent's next start", as_json=options.json)


def _status(options: argparse.Namespace) -> None:
    from device_agent.adapters.system.software_slots import SoftwareSlots

    record = SoftwareSlots(existing_folder(options.data)).record
    human = f"active: {record.active or 'the system package'}, on trial: {record.trial or 'nothing'}"
    emit(record._asdict() | {"bad": list(record.bad)}, human, as_json=options.json)
