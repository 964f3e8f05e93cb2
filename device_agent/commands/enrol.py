# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent enrol``: join a fleet."""

import argparse
from pathlib import Path

from device_agent.commands.verbs import Parser, add_verb, emit


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    verb = add_verb(
        verbs, "enrol", "join a fleet with a ticket", _enrol, "--ticket ticket.json --data /var/lib/edgefleet"
    )
    verb.add_argument("--ticket", type=Path, required=True, help="the ticket from 'edgefleet devices invite'")


def _enrol(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.adapters.identity.enrolment import enrol, read_ticket

    identity = enrol(read_ticket(options.ticket), DataFolder(options.data.resolve()))
    document = {"device": identity.device, "tenant": identity.tenant, "profile": identity.profile}
    emit(document, f"enrolled as {identity.device} of {identity.tenant}", as_json=options.json)
