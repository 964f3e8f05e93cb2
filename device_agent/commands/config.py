# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent config``: check a settings file before an agent meets it, and print what may be set."""

import argparse
from pathlib import Path

from device_agent.commands.verbs import Parser, add_group, add_plain_verb, emit


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verbs on the command line."""
    group = add_group(verbs, "config", "check settings, or print their schema")
    check = add_plain_verb(group, "config check", "check a settings file", _check, "/etc/edgefleet/agent.toml")
    check.add_argument("file", type=Path, metavar="FILE", help="settings in TOML")
    add_plain_verb(group, "config schema", "print the JSON Schema of the settings", _schema, "> agent.schema.json")


def _check(options: argparse.Namespace) -> None:
    import msgspec

    from device_agent.settings import read_settings

    settings = read_settings(options.file)
    emit({"settings": msgspec.to_builtins(settings)}, f"{options.file} can be used", as_json=options.json)


def _schema(_: argparse.Namespace) -> None:
    from device_agent.settings import settings_schema

    emit(settings_schema(), "", as_json=True)
