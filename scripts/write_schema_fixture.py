# SPDX-License-Identifier: Apache-2.0
"""Writes what a device keeps on its disk, as the agent's code of now writes it, into tests/device_agent/fixtures.

    python scripts/write_schema_fixture.py                      the fixture of the schema that the code has now
    PYTHONPATH=OLD python scripts/write_schema_fixture.py DIR   the same by older code (an unpacked `git archive`)

A device in the middle of a trial: an active and a previous release, one in quarantine, messages that wait, and what its
signed orders said. Databases are kept as SQL, so that a diff shows what changed. Run it after SCHEMA of
device_agent/core/life/record_schema.py was raised; a fixture of a schema that was released stays as it is, for good.
"""

import json
import re
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.adapters.storage.slots import SlotFolder
from device_agent.adapters.storage.state_file import StateFile
from device_agent.core.life.record import DeviceRecord
from edgefleet.contracts.messages import Event, RunningRelease

FIXTURES = Path(__file__).parents[1] / "tests" / "device_agent" / "fixtures"
ACTIVE, CANDIDATE, PREVIOUS = (
    RunningRelease(name="digits", version=version, bundle_sha256=letter * 64)
    for letter, version in (("a", "1.0.0"), ("b", "2.0.0"), ("c", "0.9.0"))
)
BAD, RECALLED = "d" * 64, "f" * 64
IDENTITY = {
    "server_url": "https://fleet.example:8443",
    "tenant": "acme",
    "device": "dev-1",
    "profile": "linux-x86_64",
    "broker": {"host": "fleet.example", "port": 8883, "tls": True},
}
POLICY = {
    "shadow": {"samples": 5, "limit_s": 3600.0},
    "trial": {"requests": 20, "minimum_s": 0.0, "limit_s": 604800.0, "crash_limit": 2},
}
PROGRESS = {"attempts_left": 2, "unexplained_left": 4, "requests": 12, "compared": 12, "elapsed_s": 90.5}


def main() -> None:
    """Write the fixture into the folder given, or into that of the present schema."""
    write_fixture(Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / f"schema-{_schema()}")


def write_fixture(folder: Path) -> None:
    """Write a device's folder, and (since schema 2) the shapes of what is in it."""
    with tempfile.TemporaryDirectory() as made:
        device = Path(made)
        write_device(device)
        kept = {str(path.relative_to(device)): _text(path) for path in sorted(device.rglob("*")) if _is_kept(path)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device-folder.json").write_text(json.dumps(kept, indent=1) + "\n")
    if _schema() > 1:
        (folder / "shapes.json").write_text(json.dumps(shapes(kept), indent=1, sort_keys=True) + "\n")


def write_device(device: Path) -> None:
    """Write a device's data folder with the code that is imported."""
    state = StateFile(device / "state.db")
    state.save(_record())
    state.close()
    outbox = OutboxFile(device / "outbox.db", "dev-1", limit_bytes=1 << 20)
    for number in range(1, 8):
        outbox.append(Event(kind="worker-restarted", cause="crash", detail=str(number)), created_at=1.76e9 + number)
    outbox.acknowledge(outbox.epoch, 2)
    outbox.close()
    slots = SlotFolder(device / "slots")
    for release, counter in ((PREVIOUS, 3), (ACTIVE, 5)):
        slots.mark_good(release, counter=counter, committed_at=1.76e9 + counter)
    slots.mark_bad(BAD)
    if find_spec("device_agent.adapters.identity.data_folder") is not None:
        _write_identity(device)
    if _schema() > 1:
        _write_later(device)


def shapes(kept: Mapping[str, str]) -> dict[str, object]:
    """Return what is laid down of each durable file: the tables of databases, the fields and types of structures."""
    from device_agent.adapters.identity.check_in import CheckInMemory
    from device_agent.adapters.storage.holds import Hold
    from device_agent.adapters.storage.slots import GoodMark
    from device_agent.core.identity import Identity
    from device_agent.core.life.record_schema import BaseRecord
    from device_agent.core.orders.software_trial import SoftwareRecord
    from device_agent.core.orders.trust_memory import TrustMemory

    kinds = (BaseRecord, DeviceRecord, TrustMemory, CheckInMemory, Identity, GoodMark, Hold, SoftwareRecord)
    found: dict[str, object] = {kind.__name__: _fields_of(kind) for kind in kinds}
    for name in ("state.db", "outbox.db"):
        found[name] = [re.sub(r"\s+", " ", made) for made in re.findall(r"CREATE [^;]*;", kept[name])]
    return found


def _fields_of(kind: type) -> dict[str, dict[str, str]]:
    """Return the fields of a structure, and of all inside it, each with the kind of its value."""
    inner = msgspec.json.schema(kind).get("$defs", {})
    parts = {name: part.get("properties", {}) for name, part in sorted(inner.items())}
    return {name: {field: _kind_of(value) for field, value in sorted(part.items())} for name, part in parts.items()}


def _kind_of(value: Mapping[str, Any]) -> str:
    either = [_kind_of(one) for one in value.get("anyOf", ())]
    inner = [_kind_of(value[part]) for part in ("items", "additionalProperties") if isinstance(value.get(part), dict)]
    own = value.get("type") or str(value.get("$ref", "")).rpartition("/")[2]
    return " ".join([str(own), *sorted(either), *inner]).strip()


def _schema() -> int:
    if find_spec("device_agent.core.life.record_schema") is None:
        return 1
    from device_agent.core.life.record_schema import SCHEMA

    return SCHEMA


def _record() -> DeviceRecord:
    """Return the record by the fields that the imported code has: one release a device, or sets of them."""
    one = {release: msgspec.to_builtins(release) for release in (ACTIVE, CANDIDATE, PREVIOUS)}
    fields = {
        "status": "trial",
        "counter": 7,
        "order_counter": 7,
        "fault": None,
        "reported": ["6:quarantined"],
        "boot_id": "boot-1",
        "clean_stop": False,
        "changed_at": 1.76e9,
    }
    if _schema() == 1:
        fields |= {"active": one[ACTIVE], "previous": one[PREVIOUS], "candidate": one[CANDIDATE], "policy": POLICY}
        fields |= {"progress": PROGRESS, "quarantine": [BAD], "compat_hash": "e" * 64}
        known = DeviceRecord.__struct_fields__
        return msgspec.convert({name: value for name, value in fields.items() if name in known}, DeviceRecord)
    fields |= {"active": [{"release": one[ACTIVE]}], "previous": [{"release": one[PREVIOUS]}]}
    fields["candidate"] = [{"release": one[CANDIDATE], "compat_hash": "e" * 64, "policy": POLICY}]
    fields["progress"] = {"digits": PROGRESS}
    software = {"agent": "0.1.0", "runtime": "ai-edge-litert 2.3.0"}
    fields["quarantine"] = [{"bundle_sha256": BAD, "software": software, "cause": "parity-reference"}]
    fields["recall"] = {"releases": [RECALLED], "minimum": {"digits": "0.9.0"}}
    fields["settings"] = "poll_s = 600.0\n"
    return msgspec.convert(fields, DeviceRecord)


def _write_identity(device: Path) -> None:
    from device_agent.adapters.identity.data_folder import DataFolder, encode_identity
    from device_agent.adapters.storage.durable import write_durably
    from device_agent.core.identity import Identity

    (device / "identity").mkdir(exist_ok=True)
    identity = msgspec.convert(IDENTITY, Identity)
    if _schema() == 1:
        write_durably(device / "identity" / "device.json", encode_identity(identity))
    else:
        DataFolder(device).write_identity(identity)


def _write_later(device: Path) -> None:
    """Write the files that came with schema 2."""
    from device_agent.adapters.identity.check_in import CheckInMemory
    from device_agent.adapters.storage.durable import write_durably
    from device_agent.adapters.storage.holds import Hold, HoldFolder
    from device_agent.adapters.verification.trust_memory_file import TrustMemoryFile
    from device_agent.core.orders.software_trial import SoftwareRecord
    from device_agent.core.orders.trust_memory import TrustMemory
    from device_agent.launcher import write_record
    from edgefleet.contracts.enrolment import HardwareFacts

    role = {"version": 4, "keys": "7f5258a98550b235", "names": ["digits"]}
    recalled = {"bundles": {"digits": [RECALLED]}, "below": {"digits": "0.9.0"}}
    memory = {"floor": {"digits": "0.9.0"}, "roles": {"production-digits": role | {"recalled": recalled}}}
    memory |= {"names": ["digits"], "standing": 2, "looked_at": 1.76e9, "bound": 1.76e9}
    (device / "trust").mkdir(exist_ok=True)
    TrustMemoryFile(device / "trust").save(msgspec.convert(memory, TrustMemory))
    facts = HardwareFacts(
        architecture="aarch64",
        kernel="6.1",
        cpu_count=4,
        memory_bytes=1 << 30,
        python="3.11",
        runtime="ai-edge-litert 2.3",
    )
    check_in = CheckInMemory(instance="8.aa", facts=facts)
    write_durably(device / "identity" / "check-in.json", msgspec.json.encode(check_in))
    HoldFolder(device / "holds").put("robot", Hold(until=4e9, reason="it moves"))
    (device / "software").mkdir(exist_ok=True)
    write_record(device / "software", SoftwareRecord(active="1" * 64, bad=("2" * 64,)))


def _is_kept(path: Path) -> bool:
    return path.is_file() and not path.name.endswith(("-journal", "-wal", "-shm"))


def _text(path: Path) -> str:
    if path.suffix != ".db":
        return path.read_text()
    database = sqlite3.connect(path)
    try:
        return "\n".join(database.iterdump())
    finally:
        database.close()


if __name__ == "__main__":
    main()
