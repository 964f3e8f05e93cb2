# SPDX-License-Identifier: Apache-2.0
"""Kill a whole emulated Linux device in the middle of updates, at random moments, and see how it comes back.

QEMU is ended by SIGKILL: what the device's kernel had not yet given to its disk is gone, what it had given is kept. The
disk is the same one all along. The server, the broker and the way of the messages are real.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from msgspec import structs

from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import Fact
from fleet_emulation.demo.applications import Application
from fleet_emulation.linux_devices.agent import DATA
from fleet_emulation.linux_devices.device import linux_device
from fleet_emulation.linux_devices.small_fleet import BLANK, SmallFleet
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.rehearsal import MODELS, POLICY, wait_until
from fleet_emulation.testbed import PRODUCT, Testbed

_PROFILE = "raspberry-pi-4"
_NAME = "device-1"
_TIME_SCALE = 60
#: What the profile needs at least.
_MEMORY_MIB = 1024
_REQUESTS_PER_S = 10.0
_LIMIT_S = 240.0


class DeviceKill(Fact, frozen=True, kw_only=True):
    """One power cut: when, what had been told, and how the device came back.

    ``answered_by`` is the release of the first answer; ``slots_whole`` tells whether each bundle has its hash;
    ``rollout`` is how the update ended; ``missing`` counts messages that the server knows of and does not have.
    """

    after_s: float
    version: str
    told_committed: bool
    answer: str
    answered_by: str
    slots_whole: bool
    rollout: str = ""
    missing: int = 0
    epochs: int = 0

    @property
    def survived(self) -> bool:
        """Tell whether the cut did nothing but cost time."""
        kept = not self.told_committed or self.answered_by == f"{PRODUCT} {self.version}"
        unharmed = self.answer == "ok" and self.slots_whole and self.rollout == "completed"
        return kept and unharmed and self.missing == 0 and self.epochs == 1


@contextmanager
def updating_device(folder: Path, examples: Path) -> Iterator[SmallFleet]:
    """Yield a fleet of one emulated device with three good releases to go round, the first of them committed.

    Raises:
        EdgeFleetError: something does not start.
    """
    with Testbed(folder, examples, time_scale=_TIME_SCALE, poll_s=1.0, profile=_PROFILE) as bed:
        bed.set_up_server()
        _release(bed)
        (ticket,) = bed.invite([_NAME])
        with linux_device(_PROFILE, folder=folder / _NAME, memory_mib=_MEMORY_MIB) as device:
            periods = {"poll_s": bed.settings.poll_s, "telemetry_s": bed.settings.telemetry_s}
            agent = device.agent(ticket, time_scale=_TIME_SCALE, settings=periods)
            stream = LiveStream(examples / "digits.npz", seed=1, blank_share=0.0)
            application = Application(_NAME, agent.socket, stream, requests_per_s=_REQUESTS_PER_S)
            fleet = SmallFleet(bed, device, agent)
            try:
                update(fleet, next(iter(MODELS)))
                yield fleet
            finally:
                application.stop()


def update(fleet: SmallFleet, version: str) -> float:
    """Bring a release to the device without disturbance, and return how long it took.

    Raises:
        EdgeFleetError: it was not completed.
    """
    started = time.monotonic()
    ended = fleet.wait_for_end(fleet.roll_out(version))
    if ended["state"] != "completed":
        raise EdgeFleetError(f"the rollout of {version} ended as {ended['state']}", hint="see the logs")
    return time.monotonic() - started


def cut_power_in_update(fleet: SmallFleet, version: str, *, after_s: Sequence[float]) -> list[DeviceKill]:
    """Start an update and cut the power again and again, each time so long after the device was on and answered.

    Raises:
        EdgeFleetError: the device does not come back, or the update does not end, in time.
    """
    heard = len(fleet.events())
    rollout = fleet.roll_out(version)
    kills = []
    for moment_s in after_s:
        time.sleep(moment_s)
        fleet.device.cut_power()
        told = any((event.kind, event.version) == ("committed", version) for event in fleet.events()[heard:])
        fleet.device.start()
        whole = slots_whole(fleet)
        fleet.agent.start()
        answer, answered_by = wait_until(lambda: _answer(fleet), "an answer", limit_s=_LIMIT_S)
        kills.append(
            DeviceKill(
                after_s=round(moment_s, 2),
                version=version,
                told_committed=told,
                answer=answer,
                answered_by=answered_by,
                slots_whole=whole,
            )
        )
    ended = fleet.wait_for_end(rollout)
    missing, epochs = missing_messages(fleet.bed)
    return [structs.replace(kill, rollout=ended["state"], missing=missing, epochs=epochs) for kill in kills]


def slots_whole(fleet: SmallFleet) -> bool:
    """Tell whether each bundle on the device has the hash that it is named for."""
    done = fleet.device.run(["sh", "-c", f"cd {DATA}/slots && sha256sum *.bundle"])
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    return bool(lines) and all(f"{found}.bundle" == name for found, name in lines)


def missing_messages(bed: Testbed) -> tuple[int, int]:
    """Return how many numbers below the highest the server neither has nor was told to be gone, and the epochs."""
    with closing(sqlite3.connect(f"{bed.database.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)) as rows:
        stored = rows.execute("SELECT epoch, sequence FROM message").fetchall()
        gaps = rows.execute("SELECT epoch, first, last FROM outbox_gap").fetchall()
    epochs = {epoch for epoch, _ in stored}
    missing = 0
    for epoch in epochs:
        numbers = {sequence for other, sequence in stored if other == epoch}
        for _, first, last in (gap for gap in gaps if gap[0] == epoch):
            numbers.update(range(first, last + 1))
        missing += max(numbers) - len(numbers)
    return missing, len(epochs)


def _answer(fleet: SmallFleet) -> tuple[str, str]:
    """Return the status and the release of the first answer; a blank frame is as good as another."""
    answer = fleet.answer(BLANK)
    return answer.status, answer.release


def _release(bed: Testbed) -> None:
    samples = bed.folder / "calibration.npz"
    with np.load(bed.examples / "digits.npz", allow_pickle=False) as digits:
        np.savez(samples, x=digits["calibration_x"], y=digits["calibration_y"])
    policy = bed.folder / "policy.toml"
    policy.write_text(POLICY)
    for version, model in MODELS.items():
        bed.release(version, bed.convert(version, model, samples), policy)
