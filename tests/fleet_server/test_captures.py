# SPDX-License-Identifier: Apache-2.0
"""Captured inputs come in only where the server wants them, from enrolled devices, within bounds."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket
from device_agent.adapters.storage.capture_folder import CaptureFolder
from edgefleet.contracts.capture import CapturedInput, CapturedTensor
from edgefleet.contracts.errors import MessageError, NotAllowedError, StorageError
from edgefleet.contracts.messages import RunningRelease
from fleet_server.adapters.telemetry.capture_store import CaptureStore


def captured(at: float = 1.0) -> bytes:
    release = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)
    tensor = CapturedTensor(shape=(64,), dtype="uint8", data=bytes(64))
    return msgspec.json.encode(CapturedInput(v=1, release=release, confidence=0.2, captured_at=at, inputs=(tensor,)))


def test_a_server_that_was_not_asked_to_takes_none(tmp_path: Path) -> None:
    store = CaptureStore(tmp_path / "captures", limit_bytes=0)
    with pytest.raises(NotAllowedError) as refused:
        store.store("d1", captured())
    assert refused.value.message == "this server takes no captured inputs"
    assert not (tmp_path / "captures").exists()


def test_inputs_are_stored_once_below_their_device_until_the_room_is_full(tmp_path: Path) -> None:
    size = len(captured())
    store = CaptureStore(tmp_path / "captures", limit_bytes=2 * size)
    for at in (1.0, 2.0, 2.0):
        store.store("d1", captured(at))
    with pytest.raises(StorageError) as refused:
        store.store("d2", captured(3.0))
    assert refused.value.message == f"captured inputs fill their {2 * size} bytes"
    stored = sorted((tmp_path / "captures").rglob("*.json"))
    assert [path.parent.name for path in stored] == ["d1", "d1"]
    again = CaptureStore(tmp_path / "captures", limit_bytes=3 * size)
    again.store("d2", captured(3.0))
    with pytest.raises(StorageError):
        again.store("d2", captured(4.0))


def test_what_is_no_captured_input_is_refused(tmp_path: Path) -> None:
    store = CaptureStore(tmp_path / "captures", limit_bytes=1 << 20)
    with pytest.raises(MessageError):
        store.store("d1", b"{}")


@pytest.mark.parametrize("captures_bytes", [1 << 20, 0])
def test_a_device_delivers_over_its_certificate_and_keeps_nothing_of_what_is_there_or_not_wanted(
    captures_bytes: int, new_server: Any, cli: Any, tmp_path: Path
) -> None:
    server = new_server(captures_bytes=captures_bytes)
    ticket = tmp_path / "ticket.json"
    cli("devices", "invite", "d1", "--profile", "linux-x86_64", "--output", ticket, "--home", server.admin)
    folder = DataFolder(tmp_path / "device")
    enrol(read_ticket(ticket), folder)
    captures = CaptureFolder(folder.captures, limit_bytes=1 << 20, bytes_per_day=1 << 20)
    for at in (1.0, 2.0):
        assert captures.keep(msgspec.json.decode(captured(at), type=CapturedInput), 0.0)
    held = {path.name: path.read_bytes() for path in captures.files()}
    captures.deliver()
    assert captures.files() == []
    stored = {path.name: path.read_bytes() for path in (server.data / "captures").rglob("*.json")}
    assert stored == (held if captures_bytes else {})
