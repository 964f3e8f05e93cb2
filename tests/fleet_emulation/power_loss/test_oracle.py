# SPDX-License-Identifier: Apache-2.0
"""The oracle sees what it is there to see: each test breaks a device that was left well, in one way."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from device_agent.adapters.identity.data_folder import DataFolder
from edgefleet.contracts.messages import Event, Gap, Message
from fleet_emulation.power_loss.agent import AgentSubject, forget_state, read_promises, wrong_numbers
from fleet_emulation.power_loss.children import ask_child, run_child
from fleet_emulation.power_loss.device import Promise
from fleet_emulation.power_loss.kill_sweep import read_promise_lines

Examine = Callable[[], list[str]]


@pytest.fixture(name="updated")
def _updated(agent_subject: AgentSubject, scratch: Path) -> Path:
    """Return the folder of a device after its update; what it told lies beside it."""
    folder = scratch / "device"
    agent_subject.prepare(folder)
    run_child(lambda: agent_subject.update(folder, scratch / "promises"))
    return folder


@pytest.fixture(name="examine")
def _examine(agent_subject: AgentSubject, updated: Path) -> Examine:
    told = read_promise_lines(updated.with_name("promises"))
    return lambda: ask_child(lambda: agent_subject.examine(updated, told))


def test_a_device_that_was_updated_in_peace_is_well(examine: Examine) -> None:
    assert examine() == []


def test_a_device_before_its_update_is_well(agent_subject: AgentSubject, scratch: Path) -> None:
    agent_subject.prepare(scratch / "device")
    assert ask_child(lambda: agent_subject.examine(scratch / "device", [])) == []


def test_no_model_is_seen(examine: Examine, updated: Path) -> None:
    for slot in DataFolder(updated).slots.iterdir():
        slot.unlink()
    assert any("no model answers" in what for what in examine())


def test_an_update_that_was_told_and_lost_is_seen(agent_subject: AgentSubject, examine: Examine, updated: Path) -> None:
    old = agent_subject.template
    for path in [*updated.glob("state.db*"), *DataFolder(updated).slots.glob("*.good")]:
        path.unlink()
    for path in [*old.glob("state.db*"), *DataFolder(old).slots.glob("*.good")]:
        (updated / path.relative_to(old)).write_bytes(path.read_bytes())
    assert "digits 1.1.0 answers, and the world was told that 1.2.0 is committed" in examine()


def test_a_lost_message_is_seen(examine: Examine, updated: Path) -> None:
    for path in updated.glob("outbox.db*"):
        path.unlink()
    assert any("is lost" in what for what in examine())


def test_a_number_that_comes_again_is_seen(agent_subject: AgentSubject, updated: Path) -> None:
    promises = read_promises(read_promise_lines(updated.with_name("promises")))
    last = [promise.sent for promise in promises if promise.sent][-1]
    other = msgspec.structs.replace(last, created_at=last.created_at + 1.0)
    told = [msgspec.json.encode(Promise(sent=other))]
    wrong = ask_child(lambda: agent_subject.examine(updated, told))
    assert f"the number {last.sequence} was used twice, for telemetry and for telemetry" in wrong


def test_only_after_damage_may_a_gap_stand_in_a_messages_place() -> None:
    told = Message(v=1, device="d", epoch="e" * 16, sequence=7, created_at=1.0, body=Event(kind="committed", cause="c"))
    own, other = (msgspec.structs.replace(told, body=Gap(first=first, last=7)) for first in (7, 6))
    assert list(wrong_numbers([Promise(sent=told)], [own], damaged=True)) == []
    for sent, damaged in ((own, False), (other, True)):
        wrong = wrong_numbers([Promise(sent=told)], [sent], damaged=damaged)
        assert list(wrong) == ["the number 7 was used twice, for committed and for gap"]


def test_a_device_without_its_state_answers_by_the_marks_beside_its_slots(
    agent_subject: AgentSubject, updated: Path
) -> None:
    forget_state(updated)
    told = read_promise_lines(updated.with_name("promises"))
    assert ask_child(lambda: agent_subject.examine_damaged(updated, told)) == []
