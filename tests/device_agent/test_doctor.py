# SPDX-License-Identifier: Apache-2.0
"""``edgefleet-agent doctor``: a healthy device, and one illness after another, each named with what to do."""

import datetime
import json
import socket

import pytest

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.storage.slots import SlotFolder
from device_agent.cli import main
from device_agent.core.findings import Finding, of_certificate, of_clock, of_disk, of_key, of_packages, of_python

DAY_S = 86_400.0
GOOD = {
    "msgspec": "0.22.0",
    "numpy": "2.4.6",
    "cryptography": "50.0.2",
    "paho-mqtt": "2.2.0",
    "tuf": "7.0.1",
    "urllib3": "2.8.0",
    "ai-edge-litert": "2.3.0",
}


def examined(folder, capsys, *arguments):
    """The doctor's exit status, and its findings by name."""
    status = 0
    try:
        main(["doctor", "--data", str(folder.root), "--json", *arguments])
    except SystemExit as end:
        status = end.code
    document = json.loads(capsys.readouterr().out)
    assert document["well"] == (status == 0)
    return status, {found["name"]: (found["level"], found["detail"]) for found in document["findings"]}


def test_a_healthy_device_is_well(enrolled, capsys, device_side):
    status, findings = examined(enrolled, capsys)
    assert status == 0, findings
    assert findings["identity"] == ("ok", "dev-1 of acme, linux-x86_64")
    assert findings["slots"] == ("ok", "0 bundles, each with its hash")
    assert findings["key"] == ("ok", "is the agent's alone")
    assert findings["broker"] == ("ok", "there is none: the device polls")
    assert findings["server"][0] == "ok"


def test_a_person_reads_one_line_for_each(enrolled, capsys):
    assert main(["doctor", "--data", str(enrolled.root), "--offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn") for line in lines)
    assert any(line.startswith("ok    certificate     is good for ") for line in lines)
    assert not [line for line in lines if " server " in line]


def test_a_folder_that_is_no_device_is_told_so(tmp_path, capsys):
    status, findings = examined(DataFolder(tmp_path), capsys)
    assert status == 1
    assert findings["identity"] == ("fail", f"'{tmp_path}' holds no enrolled device")
    assert findings["key"] == ("fail", "is not there")


def test_every_illness_of_the_folder_is_found_at_once(enrolled, capsys, device_side):
    slots = SlotFolder(enrolled.slots)
    slots.path("0" * 64).write_bytes(b"not what its name says")
    enrolled.state.write_bytes(b"not a database")
    enrolled.outbox.write_bytes(b"not a database either, and long enough to be taken for one" * 100)
    enrolled.key.chmod(0o644)
    enrolled.certificate.write_text("not a certificate")
    device_side.stop()
    status, findings = examined(enrolled, capsys)
    assert status == 1
    ill = {name for name, (level, _) in findings.items() if level == "fail"}
    assert ill == {"slots", "state", "outbox", "key", "certificate", "server"}
    assert findings["slots"][1] == f"{'0' * 64}.bundle has changed on the disk"
    assert findings["key"][1] == "others may read it (mode 644)"


def test_a_broker_that_does_not_answer_is_named(enrolled, capsys, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        config = tmp_path / "agent.toml"
        config.write_text(f"[broker]\nhost = '127.0.0.1'\nport = {port}\ntls = false\n")
        status, findings = examined(enrolled, capsys, "--config", str(config))
    assert status == 1
    assert findings["broker"] == ("fail", f"127.0.0.1:{port} does not answer: Connection refused")


def found(finding):
    return finding.level, finding.detail


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        ({}, "runtime", ("ok", "ai-edge-litert 2.3.0")),
        ({"tuf": "7.0.0"}, "tuf", ("fail", "7.0.0, expected 7.0.1 or newer")),
        ({"tuf": "7.1rc1"}, "tuf", ("fail", "7.1rc1, expected 7.0.1 or newer")),
        ({"tuf": None}, "tuf", ("fail", "is not installed")),
        (
            {"ai-edge-litert": None},
            "runtime",
            ("fail", "neither ai-edge-litert nor tflite-runtime is installed"),
        ),
        (
            {"ai-edge-litert": None, "tflite-runtime": "2.14.0"},
            "runtime",
            ("fail", "tflite-runtime 2.14.0 cannot make an interpreter with numpy 2.4.6"),
        ),
        (
            {"ai-edge-litert": None, "tflite-runtime": "2.14.0", "numpy": "1.26.4"},
            "runtime",
            ("ok", "tflite-runtime 2.14.0"),
        ),
    ],
)
def test_packages_and_their_traps(changes, name, told):
    versions = {package: version for package, version in {**GOOD, **changes}.items() if version is not None}
    assert {finding.name: found(finding) for finding in of_packages(versions)}[name] == told


def test_judgements_by_numbers():
    now = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC).timestamp()
    assert found(of_python((3, 10, 2))) == ("fail", "3.10.2, expected 3.11 or newer")
    assert found(of_python((3, 11, 7))) == ("ok", "3.11.7")
    assert found(of_certificate(now - DAY_S, now + 60 * DAY_S, now)) == ("ok", "is good for 60 days")
    assert found(of_certificate(now - DAY_S, now + 3 * DAY_S, now)) == ("warn", "ends in 3 days and was not renewed")
    assert found(of_certificate(now - DAY_S, now - 3 * DAY_S, now)) == ("fail", "lapsed 3 days ago")
    assert found(of_certificate(now + DAY_S, now + 9 * DAY_S, now)) == (
        "fail",
        "begins in the future: the clock is behind",
    )
    assert found(of_clock(now, latest_seen=now + DAY_S / 2))[0] == "ok"
    assert found(of_clock(now, latest_seen=now + 10 * DAY_S)) == (
        "fail",
        "at least 10 days behind what the device has seen",
    )
    room = {"reserve_bytes": 4 << 20, "largest_slot_bytes": 10 << 20}
    assert found(of_disk(free_bytes=3 << 20, **room)) == ("fail", "3 MiB free, less than the reserve of 4 MiB")
    assert found(of_disk(free_bytes=20 << 20, **room)) == ("warn", "20 MiB free: the next release may not fit")
    assert found(of_disk(free_bytes=24 << 20, **room)) == ("ok", "24 MiB free")


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"mode": 0o600, "sealed": False, "lies_open": True}, "ok"),
        ({"mode": 0o640, "sealed": False, "lies_open": True}, "fail"),
        ({"mode": 0o600, "sealed": True, "lies_open": True}, "warn"),
        ({"mode": 0, "sealed": True, "lies_open": False}, "ok"),
        ({"mode": 0, "sealed": False, "lies_open": False}, "fail"),
    ],
)
def test_how_the_key_is_kept(facts, level):
    finding = of_key(**facts)
    assert isinstance(finding, Finding)
    assert finding.level == level
    assert bool(finding.todo) == (level != "ok")
