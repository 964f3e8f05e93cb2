# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent status``: what the device runs, read without touching the agent."""

import argparse
from typing import Any

from device_agent.commands.verbs import Parser, add_verb, emit


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    add_verb(verbs, "status", "show what the device runs", _status, "--data /var/lib/edgefleet --json")


def _status(options: argparse.Namespace) -> None:
    import msgspec

    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.adapters.storage.labels_file import LabelsFile
    from device_agent.adapters.storage.state_file import read_record
    from device_agent.core.evidence.labels import scored_releases
    from device_agent.core.life.record import DeviceRecord
    from device_agent.core.life.release_set import first_release

    folder = DataFolder(options.data)
    identity = folder.read_identity()
    record = read_record(folder.state) or DeviceRecord()
    memory = LabelsFile(folder.labels).load()
    scored = scored_releases(
        memory, [member.release for member in (*record.active, *record.candidate, *record.previous)]
    )
    document = {
        "device": identity.device,
        "tenant": identity.tenant,
        "profile": identity.profile,
        "status": record.status,
        "counter": record.counter,
        "active": msgspec.to_builtins(first_release(record.active)),
        "candidate": msgspec.to_builtins(first_release(record.trying or record.candidate)),
        "previous": msgspec.to_builtins(first_release(record.previous)),
        "models": {
            "active": [msgspec.to_builtins(member.release) for member in record.active],
            "candidate": [msgspec.to_builtins(member.release) for member in record.candidate],
            "previous": [msgspec.to_builtins(member.release) for member in record.previous],
        },
        "progress": msgspec.to_builtins(record.progress),
        "labels": scored,
        "quarantine": [entry.bundle_sha256 for entry in record.quarantine],
    }
    active = ", ".join(f"{known.release.name} {known.release.version}" for known in record.active) or "no model"
    lines = [f"{identity.device}: {record.status}, {active}", *(_shown(release) for release in scored)]
    emit(document, "\n".join(lines), as_json=options.json)


def _shown(release: "dict[str, Any]") -> str:
    """Return what labels say of one release in a line."""
    means = ", ".join(f"{name} {_share(value)}" for name, value in release["macro"].items())
    undefined = sum(None in (one["precision"], one["recall"]) for one in release["classes"].values())
    return (
        f"  {release['name']} {release['version']}: {release['labels']} labels, accuracy {_share(release['accuracy'])};"
        f" mean of the classes: {means} ({undefined} of {len(release['classes'])} classes lack one)"
    )


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
