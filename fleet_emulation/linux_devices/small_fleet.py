# SPDX-License-Identifier: Apache-2.0
"""A fleet of one emulated device: a real server with a good and a bad release, and the real agent inside the device.

``1.0.0`` of the digits example is good; ``3.0.0`` passes every check before it answers live, and divides by zero when a
frame is blank. The policy is as short as one device allows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from device_agent.client import InferenceClient, LocalAnswer, RawTensor
from fleet_emulation.command import edgefleet, require
from fleet_emulation.demo.applications import Application
from fleet_emulation.linux_devices.agent import DeviceAgent
from fleet_emulation.linux_devices.device import LinuxDevice, linux_device
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.rehearsal import ENDED, wait_until
from fleet_emulation.testbed import PRODUCT, Testbed
from fleet_server.api.documents import FleetEvent

#: A frame of a camera that sees nothing.
BLANK = RawTensor(bytes(64), "uint8", (8, 8, 1))
#: Production rules, made small enough for one device.
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
_TIME_SCALE = 60
_NAME = "device-1"
_REQUESTS_PER_S = 5.0
_LIMIT_S = 180.0


class SmallFleet(NamedTuple):
    """The server and its one device."""

    bed: Testbed
    device: LinuxDevice
    agent: DeviceAgent

    def roll_out(self, version: str) -> str:
        """Start a rollout and return its id."""
        return str(self.bed.api.post("rollouts", {"name": PRODUCT, "version": version})["id"])

    def wait_for_end(self, rollout: str) -> Any:
        """Wait until a rollout has ended, and return it as the API shows it.

        Raises:
            EdgeFleetError: it does not end in time.
        """

        def look() -> Any:
            found = self.bed.api.get(f"rollouts/{rollout}")
            return found if found["state"] in ENDED else None

        return wait_until(look, f"the rollout to end; so far: {self.story()}", limit_s=_LIMIT_S)

    def wait_for_event(self, kind: str, version: str) -> FleetEvent:
        """Wait until the server has heard of an event, by MQTT, and return it.

        Raises:
            EdgeFleetError: it does not come in time.
        """

        def look() -> FleetEvent | None:
            found = [event for event in self.events() if (event.kind, event.version) == (kind, version)]
            return found[-1] if found else None

        return wait_until(look, f"'{kind}' of {version}; so far: {self.story()}", limit_s=_LIMIT_S)

    def events(self) -> list[FleetEvent]:
        """Return what the device told, oldest first."""
        return list(reversed(msgspec.convert(self.bed.api.get("events", limit=1000), list[FleetEvent])))

    def story(self) -> list[str]:
        """Return the kinds of the events, oldest first."""
        return [event.kind for event in self.events()]

    def answer(self, picture: RawTensor) -> LocalAnswer:
        """Ask the device for one inference."""
        with InferenceClient(self.agent.socket, timeout_s=_LIMIT_S) as client:
            return client.infer(picture)


@contextmanager
def small_fleet(folder: Path, examples: Path, *, profile: str = "raspberry-pi-4") -> Iterator[SmallFleet]:
    """Yield the fleet with both versions released, its device enrolled and asked for answers, and no model on it.

    Raises:
        EdgeFleetError: something does not start.
    """
    with (
        ThreadPoolExecutor(1) as workshop,
        Testbed(folder, examples, time_scale=_TIME_SCALE, poll_s=1.0, profile=profile) as bed,
    ):
        converted = workshop.submit(convert_models, bed)
        bed.set_up_server()
        released = workshop.submit(release_models, bed, converted.result())
        (ticket,) = bed.invite([_NAME])
        with linux_device(profile, folder=folder / _NAME) as device:
            periods = {"poll_s": bed.settings.poll_s, "telemetry_s": bed.settings.telemetry_s}
            agent = device.agent(ticket, time_scale=_TIME_SCALE, settings=periods)
            released.result()
            stream = LiveStream(examples / "digits.npz", seed=1, blank_share=0.0)
            application = Application(_NAME, agent.socket, stream, requests_per_s=_REQUESTS_PER_S)
            try:
                yield SmallFleet(bed, device, agent)
            finally:
                application.stop()


def convert_models(bed: Testbed) -> dict[str, Path]:
    """Return the bundles of the good version and of the bad one."""
    samples = bed.folder / "calibration.npz"
    samples.parent.mkdir(parents=True, exist_ok=True)
    with np.load(bed.examples / "digits.npz", allow_pickle=False) as digits:
        np.savez(samples, x=digits["calibration_x"], y=digits["calibration_y"])
    good = bed.convert("1.0.0", "v1_float32.tflite", samples)
    given = ("--calibration", samples, "--acceptance", bed.examples / "acceptance.npz", "--out", good.parent)
    named = ("--profile", bed.profile, "--name", PRODUCT, "--version", "3.0.0")
    recipe = ("--recipe", bed.examples / "float32.toml")
    require(edgefleet("convert", bed.examples / "v3_float32.tflite", *named, *given, *recipe))
    return {"1.0.0": good, "3.0.0": good.with_name(good.name.replace("1.0.0", "3.0.0"))}


def release_models(bed: Testbed, bundles: dict[str, Path]) -> None:
    """Publish bundles with a policy that is as short as one device allows, and approve them."""
    policy = bed.folder / "policy.toml"
    policy.write_text(POLICY)
    for version, bundle in bundles.items():
        bed.release(version, bundle, policy)
