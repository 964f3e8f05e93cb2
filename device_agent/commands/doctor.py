# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent doctor``: what may be wrong with a device, and what to do about it."""

import argparse
from pathlib import Path

from device_agent.commands.verbs import Parser, add_verb, emit
from edgefleet.contracts.errors import ExitStatus


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    what = "look for what may be wrong, and say what to do"
    verb = add_verb(verbs, "doctor", what, _doctor, "--data /var/lib/edgefleet")
    verb.add_argument("--config", type=Path, help="settings in TOML")
    verb.add_argument("--offline", action="store_true", help="leave server and broker alone")


def _doctor(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.adapters.system.examination import examine
    from device_agent.settings import read_settings

    settings = read_settings(options.config)
    findings = list(examine(DataFolder(options.data.resolve()), settings, offline=options.offline))
    document = {"well": all(finding.level != "fail" for finding in findings)}
    lines = [f"{found.level:5} {found.name:15} {found.detail}{_arrow(found.todo)}" for found in findings]
    listed = [found._asdict() for found in findings]
    emit({**document, "findings": listed}, "\n".join(lines), as_json=options.json)
    if not document["well"]:
        raise SystemExit(int(ExitStatus.FAILED))


def _arrow(todo: str) -> str:
    return f"  → {todo}" if todo else ""
