# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent hold``: an application that must not be disturbed holds updates off for a while."""

import argparse
import time

from device_agent.commands.verbs import Parser, add_verb, emit, existing_folder, positive
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.names import is_name


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    example = "robot --for 600 --reason 'the arm moves' --data /var/lib/edgefleet"
    verb = add_verb(verbs, "hold", "hold updates off while they would disturb", _hold, example)
    verb.add_argument("name", help="who holds them off; the same name again renews the hold")
    action = verb.add_mutually_exclusive_group(required=True)
    action.add_argument("--for", type=positive, dest="seconds", metavar="SECONDS", help="end by itself after so long")
    action.add_argument("--release", action="store_true", help="take the hold back")
    verb.add_argument("--reason", default="", help="told with the device's state")


def _hold(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.adapters.storage.holds import HOLD_LIMIT_S, Hold, HoldFolder

    if not is_name(options.name):
        raise InputError(f"'{options.name}' is no name for a hold", hint="use lower case letters, digits, - and _")
    holds = HoldFolder(DataFolder(existing_folder(options.data)).holds)
    if options.release:
        holds.release(options.name)
        emit({"name": options.name, "until": None}, f"{options.name} holds nothing off", as_json=options.json)
        return
    if options.seconds > HOLD_LIMIT_S:
        raise InputError(
            f"a hold of {options.seconds:g} s is too long", hint=f"ask for at most {HOLD_LIMIT_S:g} s, and renew it"
        )
    hold = Hold(until=time.time() + options.seconds, reason=options.reason[:300])
    holds.put(options.name, hold)
    human = f"{options.name} holds updates off for {options.seconds:g} s"
    emit({"name": options.name, "until": hold.until}, human, as_json=options.json)
