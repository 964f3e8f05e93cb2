# SPDX-License-Identifier: Apache-2.0
"""The real agent on an emulated Raspberry Pi, updated by the real server: a good release, a bad one, a power cut."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.client import InferenceClient
from fleet_emulation.linux_devices.small_fleet import BLANK, SmallFleet, small_fleet
from fleet_emulation.linux_devices.user_mode import ArmPython
from fleet_emulation.listeners import listeners, with_descendants
from fleet_emulation.processes import Program
from fleet_emulation.rehearsal import wait_until
from fleet_emulation.testbed import PRODUCT, AgentReady
from fleet_server.api.documents import FleetEvent

LIMIT_S = 300.0


@pytest.fixture(scope="module", name="fleet")
def _fleet(can_boot: None, digits_example: Path) -> Iterator[SmallFleet]:
    with tempfile.TemporaryDirectory(prefix="ef-") as name, small_fleet(Path(name) / "bed", digits_example) as fleet:
        yield fleet


@pytest.mark.slow
def test_a_release_reaches_the_device_and_a_bad_one_goes_back_by_itself(fleet: SmallFleet) -> None:
    _first_release_is_committed(fleet)
    _bad_release_rolls_back(fleet)
    _power_cut_changes_nothing(fleet)
    assert listeners([fleet.device.pid]) == []


@pytest.mark.slow
def test_the_agent_also_runs_as_arm_processes_of_this_machine(fleet: SmallFleet, arm: ArmPython) -> None:
    (ticket,) = fleet.bed.invite(["device-2"])
    data = fleet.bed.folder / "device-2"
    enrolled = arm.run(["-m", "device_agent", "enrol", "--ticket", ticket, "--data", data, "--json"], limit_s=LIMIT_S)
    assert enrolled.status == 0, enrolled.stderr.decode()
    command = arm.command("-m", "device_agent", "run", "--data", data)
    with Program("the agent", command, log=data / "agent.log", environment=arm.environment) as agent:
        ready = agent.ready(AgentReady, limit_s=LIMIT_S)
        with InferenceClient(ready.socket, timeout_s=LIMIT_S) as client:
            assert client.info().status in ("ok", "no-model")
        emulated = [Path(f"/proc/{pid}/exe").readlink().name for pid in with_descendants([agent.pid])]
        assert len(emulated) >= 2, "the supervisor and its worker"
        assert set(emulated) == {"qemu-aarch64"}
        assert agent.stop(limit_s=LIMIT_S) == 0


def _first_release_is_committed(fleet: SmallFleet) -> None:
    rollout = fleet.roll_out("1.0.0")
    fleet.wait_for_event("committed", "1.0.0")
    expected = ["agent-started", "update-found", "verified", "admission-passed", "trial-started", "committed"]
    assert fleet.story() == expected
    assert fleet.answer(BLANK).release == f"{PRODUCT} 1.0.0"
    assert fleet.wait_for_end(rollout)["state"] == "completed", "by what the device told of its answers, by MQTT"
    (record,) = fleet.bed.api.get("devices")
    assert record["state"]["running"]["version"] == "1.0.0"


def _bad_release_rolls_back(fleet: SmallFleet) -> None:
    """It passes admission and shadow, and answers NaN live."""
    rollout = fleet.roll_out("3.0.0")
    fleet.wait_for_event("trial-started", "3.0.0")
    fleet.answer(BLANK)
    assert fleet.wait_for_event("rolled-back", "3.0.0").cause == "non-finite"
    proved = fleet.wait_for_event("rollback-verified", "1.0.0")
    assert "parity vectors, worst difference 0" in (proved.detail or "")
    assert fleet.answer(BLANK).status == "ok"
    ended = fleet.wait_for_end(rollout)
    assert (ended["state"], ended["cause"]) == ("rolled-back", "failed-devices")


def _power_cut_changes_nothing(fleet: SmallFleet) -> None:
    """What the agent had settled before the cut still holds after it."""
    fleet.device.cut_power()
    fleet.device.start()
    fleet.agent.start()
    assert fleet.answer(BLANK).release == f"{PRODUCT} 1.0.0"
    status = fleet.agent.status()
    assert (status["status"], status["active"]["version"]) == ("idle", "1.0.0")
    (refused,) = [event.bundle_sha256 for event in fleet.events() if event.kind == "quarantined"]
    assert status["quarantine"] == [refused]

    def look() -> list[FleetEvent] | None:
        found = [event for event in fleet.events() if event.kind == "agent-started"]
        return found if len(found) == 2 else None

    started = wait_until(look, "the agent's word for its second start", limit_s=LIMIT_S)
    assert started[1].cause == "clean-start", "another boot id tells a power cut from a crash of the agent"
