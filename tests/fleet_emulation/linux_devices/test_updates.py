# SPDX-License-Identifier: Apache-2.0
"""The real agent on an emulated Raspberry Pi, updated by the real server: a good release, a bad one, a power cut."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from device_agent.client import InferenceClient, LocalAnswer, RawTensor
from fleet_emulation.command import edgefleet, require
from fleet_emulation.demo.applications import Application
from fleet_emulation.linux_devices.agent import DeviceAgent
from fleet_emulation.linux_devices.device import LinuxDevice, linux_device
from fleet_emulation.listeners import listeners
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.rehearsal import ENDED, wait_until
from fleet_emulation.testbed import PRODUCT, Testbed
from fleet_server.api.documents import FleetEvent

PROFILE = "raspberry-pi-4"
NAME = "pi-1"
TIME_SCALE = 60
LIMIT_S = 120.0
POLICY = """\
format_version = 1

[device]
shadow = { samples = 5, limit_s = 3600.0 }
trial = { requests = 10, minimum_s = 60.0, limit_s = 36000.0, non_finite_limit = 0, unexplained_limit = 10 }

[rollout]
holdout_percent = 0.0
waves = [{ percent = 100.0, minimum_s = 1.0 }]

[rollout.gate]
minimum_requests = 5
disagreement = 0.9
accuracy_drop = 0.9
limit_s = 36000.0
"""
BLANK = RawTensor(bytes(64), "uint8", (8, 8, 1))


class Fleet(NamedTuple):
    """A fleet of one emulated device."""

    bed: Testbed
    device: LinuxDevice
    agent: DeviceAgent

    def roll_out(self, version: str) -> str:
        return str(self.bed.api.post("rollouts", {"name": PRODUCT, "version": version})["id"])

    def wait_for_event(self, kind: str, version: str) -> FleetEvent:
        def look() -> FleetEvent | None:
            found = [event for event in self.events() if (event.kind, event.version) == (kind, version)]
            return found[-1] if found else None

        return wait_until(look, f"'{kind}' of {version}; so far: {self.story()}", limit_s=LIMIT_S)

    def wait_for_end(self, rollout: str) -> Any:
        def look() -> Any:
            found = self.bed.api.get(f"rollouts/{rollout}")
            return found if found["state"] in ENDED else None

        return wait_until(look, f"the rollout to end; so far: {self.story()}", limit_s=LIMIT_S)

    def events(self) -> list[FleetEvent]:
        return list(reversed(msgspec.convert(self.bed.api.get("events", limit=1000), list[FleetEvent])))

    def story(self) -> list[str]:
        return [f"{event.kind} ({event.cause}) {event.version or ''}".strip() for event in self.events()]

    def state(self) -> Any:
        (record,) = self.bed.api.get("devices")
        return record

    def answer(self, picture: RawTensor) -> LocalAnswer:
        with InferenceClient(self.agent.socket, timeout_s=LIMIT_S) as client:
            return client.infer(picture)


@pytest.fixture(scope="module", name="fleet")
def _fleet(can_boot: None, digits_example: Path) -> Iterator[Fleet]:
    """Versions 1.0.0 and 3.0.0 are released, and the device is enrolled and asked for answers; it runs no model yet."""
    with (
        tempfile.TemporaryDirectory(prefix="ef-") as name,
        ThreadPoolExecutor(1) as workshop,
        Testbed(Path(name) / "bed", digits_example, time_scale=TIME_SCALE, poll_s=1.0, profile=PROFILE) as bed,
    ):
        bundles = workshop.submit(_bundles, bed)
        bed.set_up_server()
        released = workshop.submit(_release, bed, bundles.result())
        (ticket,) = bed.invite([NAME])
        with linux_device(PROFILE, folder=bed.folder / NAME) as device:
            periods = {"poll_s": bed.settings.poll_s, "telemetry_s": bed.settings.telemetry_s}
            agent = device.agent(ticket, time_scale=TIME_SCALE, settings=periods)
            released.result()
            stream = LiveStream(digits_example / "digits.npz", seed=1, blank_share=0.0)
            application = Application(NAME, agent.socket, stream, requests_per_s=5.0)
            yield Fleet(bed, device, agent)
            application.stop()


def _bundles(bed: Testbed) -> dict[str, Path]:
    samples = bed.folder / "calibration.npz"
    samples.parent.mkdir(parents=True, exist_ok=True)
    with np.load(bed.examples / "digits.npz", allow_pickle=False) as digits:
        np.savez(samples, x=digits["calibration_x"], y=digits["calibration_y"])
    good = bed.convert("1.0.0", "v1_float32.tflite", samples)
    given = ("--calibration", samples, "--acceptance", bed.examples / "acceptance.npz", "--out", good.parent)
    named = ("--profile", PROFILE, "--name", PRODUCT, "--version", "3.0.0", "--recipe", bed.examples / "float32.toml")
    require(edgefleet("convert", bed.examples / "v3_float32.tflite", *named, *given))
    return {"1.0.0": good, "3.0.0": good.with_name(good.name.replace("1.0.0", "3.0.0"))}


def _release(bed: Testbed, bundles: dict[str, Path]) -> None:
    policy = bed.folder / "policy.toml"
    policy.write_text(POLICY)
    for version, bundle in bundles.items():
        bed.release(version, bundle, policy)


@pytest.mark.slow
def test_a_release_reaches_the_device_and_a_bad_one_goes_back_by_itself(fleet: Fleet) -> None:
    _first_release_is_committed(fleet)
    _bad_release_rolls_back(fleet)
    _power_cut_changes_nothing(fleet)
    assert listeners([fleet.device.pid]) == []
    assert fleet.device.on


def _first_release_is_committed(fleet: Fleet) -> None:
    rollout = fleet.roll_out("1.0.0")
    fleet.wait_for_event("committed", "1.0.0")
    told = [event.split(" ")[0] for event in fleet.story()]
    assert told == ["agent-started", "update-found", "verified", "admission-passed", "trial-started", "committed"]
    wait_until(
        lambda: (fleet.state()["state"] or {}).get("running", {}).get("version") == "1.0.0",
        "the device's own word for it, by MQTT",
        limit_s=LIMIT_S,
    )
    assert fleet.answer(BLANK).release == f"{PRODUCT} 1.0.0"
    assert fleet.wait_for_end(rollout)["state"] == "completed", "by what the device told of its answers, by MQTT"


def _bad_release_rolls_back(fleet: Fleet) -> None:
    """3.0.0 is as good as 1.0.0, passes admission and shadow, and divides by zero when a frame is blank."""
    rollout = fleet.roll_out("3.0.0")
    fleet.wait_for_event("trial-started", "3.0.0")
    fleet.answer(BLANK)
    gone_back = fleet.wait_for_event("rolled-back", "3.0.0")
    assert gone_back.cause == "non-finite"
    proved = fleet.wait_for_event("rollback-verified", "1.0.0")
    assert "parity vectors, worst difference 0" in (proved.detail or "")
    assert fleet.answer(BLANK).status == "ok"
    ended = fleet.wait_for_end(rollout)
    assert (ended["state"], ended["cause"]) == ("rolled-back", "failed-devices")


def _power_cut_changes_nothing(fleet: Fleet) -> None:
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

    started = wait_until(look, f"the agent's word for its start; so far: {fleet.story()}", limit_s=LIMIT_S)
    assert started[1].cause == "clean-start", "another boot id tells a power cut from a crash of the agent"
