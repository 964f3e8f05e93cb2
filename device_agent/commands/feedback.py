# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent feedback``: the truth about an earlier answer."""

import argparse
from pathlib import Path

from device_agent.commands.verbs import Parser, add_verb, emit
from edgefleet.contracts.errors import InputError


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    example = "--data /var/lib/edgefleet 4294967297 cat"
    verb = add_verb(verbs, "feedback", "say what an earlier answer should have been", _feedback, example)
    verb.add_argument("--config", type=Path, help="settings in TOML, where they name another socket")
    verb.add_argument("request_id", type=_request_id, help="the number that came with the answer")
    verb.add_argument("label", help="the right label, or its class number")
    verb.add_argument(
        "--release", default="", help="the answer's release ('digits 1.0.0'), for a label that comes late"
    )
    verb.add_argument(
        "--predicted", type=int, default=-1, help="the answer's class number, for a label that comes late"
    )


def _request_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise argparse.ArgumentTypeError(f"'{text[:100]}' is no request id")
    return int(text)


def _feedback(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.client import InferenceClient
    from device_agent.settings import read_settings

    settings = read_settings(options.config)
    path = settings.socket or DataFolder(options.data.resolve()).socket
    with InferenceClient(path) as client:
        answer = client.feedback(
            options.request_id, options.label, release=options.release, predicted=options.predicted
        )
    if answer.status != "ok":
        raise InputError(
            answer.detail, hint="give a label of the model; for an answer of long ago, also --release and --predicted"
        )
    document = {"request_id": answer.request_id, "predicted": answer.top_class}
    emit(document, "counted", as_json=options.json)
