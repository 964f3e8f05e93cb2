# SPDX-License-Identifier: Apache-2.0
"""Check-ins: a copied identity is seen with certainty, and nothing else is taken for one."""

import json
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.identity import check_in as check_ins_of_the_agent
from device_agent.adapters.identity.check_in import check_in
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.system.hardware import facts_to_tell, hardware_facts
from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.errors import UnreachableError
from fleet_server.core.devices.instance_chain import InstanceChain, present


@dataclass
class Lineage:
    """One device with one memory, and one server; both may be put back to an earlier time of their own."""

    tokens: list[int] = field(default_factory=lambda: [0])
    chains: list[InstanceChain] = field(default_factory=lambda: [InstanceChain()])

    def present(self, *, stored: bool) -> str:
        chain, finding = present(self.chains[-1], self.tokens[-1])
        self.chains.append(chain)
        if stored:
            self.tokens.append(chain.head)
        return finding


Step = st.one_of(
    st.just(("check-in", 0)),
    st.just(("answer lost", 0)),
    st.tuples(st.just("device put back"), st.integers(1, 12)),
    st.tuples(st.just("server put back"), st.integers(1, 12)),
)


@given(st.lists(Step, max_size=60))
def test_one_device_is_never_taken_for_two(steps: list[tuple[str, int]]) -> None:
    lineage = Lineage()
    for step, back in steps:
        if step == "device put back":
            del lineage.tokens[max(1, len(lineage.tokens) - back) :]
        elif step == "server put back":
            del lineage.chains[max(1, len(lineage.chains) - back) :]
        else:
            assert lineage.present(stored=step == "check-in") != "forked"
            assert list(lineage.chains[-1].forsaken) == sorted(lineage.chains[-1].forsaken)


@given(
    before=st.lists(st.sampled_from(("stored", "lost")), max_size=20),
    turns=st.lists(st.tuples(st.sampled_from(("original", "copy")), st.booleans()), max_size=20),
    missed=st.integers(0, 5),
)
def test_a_copy_is_seen_at_the_latest_when_each_has_stored_a_token_and_come_again(
    before: list[str], turns: list[tuple[str, bool]], missed: int
) -> None:
    chain, token = InstanceChain(), 0
    for kind in before:
        chain, finding = present(chain, token)
        assert finding != "forked"
        token = chain.head if kind == "stored" else token
    tokens = {"original": token, "copy": token}
    findings = []
    ending = [(who, True) for who in ("original", "copy", "original", "copy")]
    for who, stored in [*turns, *[("original", True)] * missed, *ending]:
        chain, finding = present(chain, tokens[who])
        findings.append(finding)
        tokens[who] = chain.head if stored else tokens[who]
    assert "forked" in findings


def test_ranges_of_forsaken_tokens_grow_together_and_stay_few() -> None:
    chain, _ = present(InstanceChain(9, ((2, 3), (5, 6))), 4)
    assert chain == InstanceChain(10, ((2, 3), (5, 9)))
    for _ in range(200):
        for token in (chain.head, chain.head):  # one lost answer, one that is stored
            chain, finding = present(chain, token)
            assert finding != "forked"
    assert len(chain.forsaken) <= 64


@pytest.fixture(name="server")
def _server(shared_server: Any) -> Any:
    return shared_server


class Board:
    """A device's data folder; a copy of it is a copied memory card."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server = server
        self.folder = DataFolder(folder)
        self.identity = self.folder.read_identity()

    @classmethod
    def enrolled(cls, server: Any, cli: Any, name: str) -> "Board":
        ticket = server.folder / f"{name}.ticket.json"
        cli("devices", "invite", name, "--profile", "linux-x86_64", "--output", ticket, "--home", server.admin)
        folder = server.folder / "boards" / name
        enrol(read_ticket(ticket), DataFolder(folder))
        return cls(server, folder)

    def check_in(self) -> list[str]:
        return [f"{note.kind}: {note.detail}" for note in check_in(self.folder, self.identity)]

    def copied(self, suffix: str) -> "Board":
        target = self.folder.root.with_name(f"{self.folder.root.name}-{suffix}")
        shutil.copytree(self.folder.root, target)
        return Board(self.server, target)

    def record(self) -> Any:
        return self.server.call(f"devices/{self.identity.device}")


def test_a_copied_memory_card_is_noticed_and_told(server: Any, cli: Any) -> None:
    original = Board.enrolled(server, cli, "c1")
    for _ in range(3):
        original.check_in()
    copy = original.copied("copy")
    original.check_in()
    copy.check_in()  # as a restored card would
    assert original.record()["cloned_at"] is None
    original.check_in()
    record = original.record()
    assert record["cloned_at"] is not None
    assert record["cloned_detail"] == (
        "check-in 4 was continued by another holder up to 5: "
        "two devices, or two copies of one memory card, use this identity in turn"
    )
    copy.check_in()
    actions = [(entry["action"], entry["subject"]) for entry in server.call("audit")]
    assert actions.count(("identity-cloned", "c1")) == 1
    shown = cli("devices", "show", "c1", "--home", server.admin).out
    assert "CLONED, seen " in shown
    assert "CLONED" in next(
        line for line in cli("devices", "list", "--home", server.admin).out.splitlines() if "c1" in line
    )

    again = server.folder / "again.json"  # the answer: enrol the one that is meant again
    cli("devices", "invite", "c1", "--profile", "linux-x86_64", "--output", again, "--home", server.admin)
    fresh = DataFolder(server.folder / "boards" / "fresh")
    enrol(read_ticket(again), fresh)
    assert Board(server, fresh.root).check_in() == []
    assert original.record()["cloned_at"] is None
    with pytest.raises(UnreachableError, match="answered 403 to a check-in"):
        copy.check_in()


def test_lost_answers_lost_memories_and_restored_cards_raise_no_alarm(
    server: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board.enrolled(server, cli, "c2")
    board.check_in()
    saved = board.folder.check_in.read_bytes()
    for _ in range(2):
        board.check_in()
    with monkeypatch.context() as cut:  # the power goes before the token is stored
        cut.setattr(check_ins_of_the_agent, "_write_memory", lambda *_: None)
        board.check_in()
    board.check_in()
    board.folder.check_in.write_bytes(saved)  # a backup is put back
    board.check_in()
    board.folder.check_in.write_bytes(b"\0" * 40)  # a bad sector
    board.check_in()
    board.folder.check_in.unlink()
    board.check_in()
    assert board.record()["cloned_at"] is None


def test_the_same_request_twice_gets_the_same_token(server: Any, cli: Any) -> None:
    board = Board.enrolled(server, cli, "c3")
    folder = board.folder
    connection = ServerConnection(
        board.identity.server_url, ca=folder.ca, certificate=folder.certificate, key=folder.key
    )

    def post(**said: str) -> Any:
        status, body = connection.post_json("/v1/check-in", json.dumps(said).encode())
        assert status == 200
        return json.loads(body)

    first = post(attempt="a")
    assert post(attempt="a") == first
    second = post(attempt="b", instance=first["instance"], of_a_later_agent="passed over")
    assert second["instance"].startswith("2.")
    forged = post(attempt="c", instance="999." + second["instance"].partition(".")[2])
    assert forged["instance"].startswith("3.")  # as if it had brought none
    connection.close()


def test_a_board_that_changes_is_reported_with_what_changed(
    server: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board.enrolled(server, cli, "h1")
    assert board.record()["facts"] == msgspec.to_builtins(hardware_facts().first())
    assert board.check_in() == []
    record = board.record()
    assert record["facts"] == json.loads(msgspec.json.encode(facts_to_tell()))
    assert len(record["facts"]["cpu_features"]) > 5
    told = record["facts_at"]
    board.check_in()
    assert board.record()["facts_at"] == told  # the same facts are not sent again

    other = msgspec.structs.replace(
        facts_to_tell(), memory_bytes=1 << 30, accelerators=("usb:1a6e:089a",), kernel="7.0"
    )
    old = facts_to_tell()
    monkeypatch.setattr(check_ins_of_the_agent, "facts_to_tell", lambda: other)
    assert board.check_in() == [
        f"hardware-changed: kernel from '{old.kernel}' to '7.0'; "
        f"memory_bytes from '{old.memory_bytes}' to '{1 << 30}'; accelerators"
    ]
    assert board.record()["facts"]["accelerators"] == ["usb:1a6e:089a"]
    assert "accelerators: usb:1a6e:089a" in cli("devices", "show", "h1", "--home", server.admin).out

    with sqlite3.connect(server.data / "fleet.db") as database:  # a server that has lost them asks for them
        database.execute("UPDATE device SET facts = NULL WHERE name = 'h1'")
        database.execute("UPDATE device_identity SET facts_at = NULL WHERE device = 'h1'")
    assert board.check_in() == []
    assert board.record()["facts"]["memory_bytes"] == 1 << 30


def test_facts_are_read_where_the_kernel_shows_them(tmp_path: Path) -> None:
    for path, text in {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: other\n",
        "proc/meminfo": "MemTotal:        3884092 kB\nMemFree: 1 kB\n",
        "sys/firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/firmware/devicetree/base/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
        "dev/apex_0": "",
        "sys/bus/pci/devices/0000:01:00.0/class": "0x120000\n",
        "sys/bus/pci/devices/0000:01:00.0/vendor": "0x1e60\n",
        "sys/bus/pci/devices/0000:01:00.0/device": "0x2864\n",
        "sys/bus/pci/devices/0000:00:00.0/class": "0x060000\n",
        "sys/bus/usb/devices/1-1/idVendor": "1a6e\n",
        "sys/bus/usb/devices/1-1/idProduct": "089a\n",
        "sys/bus/usb/devices/usb1/idVendor": "1d6b\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    facts = hardware_facts(tmp_path)
    assert (facts.board, facts.soc) == ("Raspberry Pi 4 Model B Rev 1.4", "brcm,bcm2711")
    assert (facts.cpu_features, facts.memory_bytes) == (("fp", "asimd"), 3884092 << 10)
    assert facts.accelerators == ("node:apex_0", "pci:1e60:2864", "usb:1a6e:089a")
    bare = hardware_facts(tmp_path / "nothing")
    assert (bare.board, bare.soc, bare.cpu_features, bare.accelerators) == ("", "", (), ())
    assert bare.memory_bytes > 0


def test_facts_of_older_and_newer_agents_are_read() -> None:
    first = {"architecture": "aarch64", "kernel": "6", "cpu_count": 4, "memory_bytes": 1, "python": "3", "runtime": "x"}
    assert msgspec.to_builtins(msgspec.convert(first, HardwareFacts)) == first
    later = first | {"quantum_bits": 8}
    assert msgspec.json.decode(json.dumps(later), type=HardwareFacts).architecture == "aarch64"
