# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent import``: an update from a USB stick."""

import argparse
import os
from pathlib import Path

from device_agent.commands.verbs import Parser, add_verb, emit


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    example = "/media/stick/door-1.update --data /var/lib/edgefleet"
    verb = add_verb(verbs, "import", "take in an update file, as from a USB stick", _import, example)
    verb.add_argument("file", type=Path, help="the file from 'edgefleet releases export'")
    verb.add_argument("--config", type=Path, help="settings in TOML, for the space that is kept free")


def _import(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.adapters.verification.importing import import_update
    from device_agent.settings import read_settings

    folder = DataFolder(options.data.resolve())
    reserve_bytes = read_settings(options.config).reserve_bytes
    order = import_update(folder, options.file, reserve_bytes=reserve_bytes)
    ordered = [one.release for one in order.wanted] + ([order.software.release] if order.software else [])
    releases = [f"{release.name} {release.version}" for release in ordered]
    running = _is_running(folder.lock)
    document = {"counter": order.counter, "releases": releases, "agent_running": running}
    when = "the running agent takes it up now" if running else "it is taken up when the agent starts"
    emit(document, f"order {order.counter}: {', '.join(releases) or 'nothing new'}; {when}", as_json=options.json)


def _is_running(path: Path) -> bool:
    from device_agent.adapters.system.local_socket import lock
    from edgefleet.contracts.errors import ConflictError

    try:
        os.close(lock(path))
    except ConflictError:
        return True
    return False
