# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent diagnose``: one file for support, without secrets, also where the device is broken."""

import argparse
from pathlib import Path

from device_agent.commands.verbs import Parser, add_verb, emit, existing_folder


def add(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Hang the verb on the command line."""
    example = "--data /var/lib/edgefleet --output diagnosis.tar.gz"
    verb = add_verb(verbs, "diagnose", "write one file for support, without secrets", _diagnose, example)
    verb.add_argument("--output", type=Path, required=True, help="the file to write, a .tar.gz")
    verb.add_argument("--config", type=Path, help="the settings file that the agent runs with")


def _diagnose(options: argparse.Namespace) -> None:
    from device_agent.adapters.identity.known_secrets import known_secrets
    from device_agent.adapters.storage.durable import write_durably
    from device_agent.adapters.system.diagnosis import diagnosis
    from device_agent.core.secrecy import Secrets
    from device_agent.errors import storage_failed

    existing_folder(options.data)
    secrets = Secrets(known_secrets(options.data, options.config))
    files = {
        secrets.scrub(name): secrets.scrub(data.decode("utf-8", errors="replace")).encode()
        for name, data in diagnosis(options.data, options.config).items()
    }
    packed = _packed(files)
    try:
        write_durably(options.output, packed, mode=0o600)
    except OSError as error:
        raise storage_failed(f"write '{options.output}'", error) from error
    document = {"output": str(options.output), "size_bytes": len(packed), "files": sorted(files)}
    emit(document, f"{options.output}: {len(files)} files, {len(packed)} bytes", as_json=options.json)


def _packed(files: dict[str, bytes]) -> bytes:
    import io
    import tarfile
    import time

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(f"diagnosis/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
