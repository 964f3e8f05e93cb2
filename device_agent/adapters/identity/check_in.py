# SPDX-License-Identifier: Apache-2.0
"""The check-in: the instance token in turn, and the board's facts where the server does not know them yet."""

import secrets

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.storage.durable import write_durably
from device_agent.adapters.system.hardware import facts_to_tell
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.core.identity import Identity
from device_agent.core.upkeep import Note
from device_agent.errors import storage_failed
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import CHECK_IN_PATH, CheckIn, CheckInAnswer, HardwareFacts
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.files import read_regular
from edgefleet.contracts.manifest import Fact

_OK, _NOT_FOUND = 200, 404


class CheckInMemory(Fact, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What a check-in left for the next one: the token, and the facts that the server has."""

    instance: str = ""
    facts: HardwareFacts | None = None


def check_in(folder: DataFolder, identity: Identity) -> tuple[Note, ...]:
    """Check in once (twice if the server misses the facts), and return what is to be told.

    Raises:
        UnreachableError: the server does not answer.
        StorageError: the token cannot be stored.
        InputError: the device's certificates cannot be used.
    """
    before, facts = _read_memory(folder), facts_to_tell()
    files = {"ca": folder.ca, "certificate": folder.certificate, "key": folder.key}
    connection = ServerConnection(identity.server_url, **files, bound=known_time(folder.trust))
    try:
        answer = _post(connection, before.instance, facts if facts != before.facts else None)
        if answer is None:
            return ()
        _write_memory(folder, CheckInMemory(instance=answer.instance, facts=facts))
        if answer.facts_wanted:
            answer = _post(connection, answer.instance, facts) or answer
            _write_memory(folder, CheckInMemory(instance=answer.instance, facts=facts))
    finally:
        connection.close()
    changed = _changes(before.facts, facts) if before.facts is not None else ""
    return (Note(kind="hardware-changed", cause="observed", detail=changed),) if changed else ()


def _post(connection: ServerConnection, instance: str, facts: HardwareFacts | None) -> CheckInAnswer | None:
    """Return the server's answer; None: it is older than check-ins."""
    said = CheckIn(attempt=secrets.token_hex(16), instance=instance, facts=facts)
    status, body = connection.post_json(CHECK_IN_PATH, msgspec.json.encode(said))
    if status == _NOT_FOUND:
        return None
    if status != _OK:
        raise UnreachableError(
            f"the server answered {status} to a check-in",
            hint="check the server's log; the agent tries again by itself",
        )
    return decode_json(body, CheckInAnswer, source="the server's answer to the check-in")


def _changes(before: HardwareFacts, now: HardwareFacts) -> str:
    """Say which facts changed, long ones only by their name."""
    said = []
    for name in now.__struct_fields__:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            said.append(name if isinstance(new, tuple) else f"{name} from '{old}' to '{new}'")
    return "; ".join(said)[:1000]


def _read_memory(folder: DataFolder) -> CheckInMemory:
    """Return what the last check-in left; nothing where that is missing or damaged, which harms nothing."""
    try:
        return msgspec.json.decode(read_regular(folder.check_in), type=CheckInMemory)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return CheckInMemory()


def _write_memory(folder: DataFolder, memory: CheckInMemory) -> None:
    try:
        write_durably(folder.check_in, msgspec.json.encode(memory))
    except OSError as error:
        raise storage_failed("store the check-in", error) from error
