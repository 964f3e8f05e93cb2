# SPDX-License-Identifier: Apache-2.0
"""A whole update on aarch64 under qemu-user: first of the agent's own software, then of its model, good and bad.

    python -m benchmarks.campaign_aarch64_update

The wheels of deploy/agent/requirements.txt for aarch64 become a wheel set. A device's Python (Arm instructions, by
qemu-user) enrols with a real server on this machine, verifies and unpacks the set, and starts from it by the launcher.
From then on everything that the device does is done by the wheel set: it commits a first release, is updated to a
second one, and goes back from a third that is bad. At the end the launcher's record must say that the set is committed.
"""

import hashlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks.record import ROOT, skip, write
from device_agent.adapters.system.software_slots import SoftwareSlots
from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.demo.applications import Application
from fleet_emulation.demo.run import example_folder
from fleet_emulation.linux_devices.small_fleet import BLANK, SmallFleet, convert_models, release_models
from fleet_emulation.linux_devices.user_mode import ArmPython, arm_python
from fleet_emulation.listeners import with_descendants
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.processes import Program
from fleet_emulation.testbed import PRODUCT, AgentReady, Testbed

_TIME_SCALE = 60
_DEVICE = "arm-1"
_LIMIT_S = 300.0
_INSTALL_LIMIT_S = 1500.0
_MACHINE = "aarch64"
_PROFILE = "raspberry-pi-4"
_REQUESTS_PER_S = 5.0


def main() -> None:
    try:
        python = arm_python(_PROFILE)
    except EdgeFleetError as error:
        skip(error.message)
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        folder = Path(name)
        path, sha256 = _wheel_set(folder)
        with Testbed(folder / "bed", example_folder(), time_scale=_TIME_SCALE, poll_s=1.0, profile=_PROFILE) as bed:
            write("campaign_aarch64_update", _Campaign(bed, python, folder).run(path, sha256))


def _script(name: str) -> ModuleType:
    """Return one of the project's scripts as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _wheel_set(folder: Path) -> tuple[Path, str]:
    """Return the wheel set of aarch64 and its SHA-256."""
    maker = _script("build_device_package")
    wheel = maker.device_wheel(maker.project_wheel(folder), folder)
    wheels = maker.download(wheel, folder / "wheels", _MACHINE)
    path = folder / "agent.wheels"
    facts = {"name": "edgefleet-agent", "version": wheel.name.split("-")[1], "machine": _MACHINE, "python": "3.11"}
    _script("build_wheel_set").write_wheel_set(wheels, path, **facts)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


class _Socket(NamedTuple):
    """What a small fleet asks for answers."""

    socket: Path


class _Campaign:
    """One device of Arm processes, and what it went through."""

    def __init__(self, bed: Testbed, python: ArmPython, folder: Path) -> None:
        self._bed = bed
        self._python = python
        self._data = folder / _DEVICE
        self._seconds: dict[str, float] = {}

    def run(self, path: Path, sha256: str) -> dict[str, Any]:
        self._bed.set_up_server()
        bundles = convert_models(self._bed)
        bundles["1.1.0"] = self._bed.convert("1.1.0", "v5_float32.tflite", self._bed.folder / "calibration.npz")
        release_models(self._bed, bundles)
        (ticket,) = self._bed.invite([_DEVICE])
        self._timed("enrolled", lambda: self._says("enrol", "--ticket", ticket))
        install = ("software", "install", path, "--sha256", sha256)
        self._timed("software_installed", lambda: self._says(*install, limit_s=_INSTALL_LIMIT_S))
        settings = self._bed.settings
        (self._data / "agent.toml").write_text(f"poll_s = {settings.poll_s}\ntelemetry_s = {settings.telemetry_s}\n")
        with self._started() as agent:
            ready = agent.ready(AgentReady, limit_s=_LIMIT_S)
            fleet = SmallFleet(self._bed, None, _Socket(Path(ready.socket)))  # type: ignore[arg-type]
            stories = self._update(fleet, Path(ready.socket))
            environment = Path(f"/proc/{agent.pid}/environ").read_bytes().decode()
            emulated = {Path(f"/proc/{pid}/exe").readlink().name for pid in with_descendants([agent.pid])}
            assert agent.stop(limit_s=_LIMIT_S) == 0
        assert f"/software/sets/{sha256}" in environment, "the wheel set runs"
        with self._started() as agent:  # the launcher reads the report of health, and commits
            agent.ready(AgentReady, limit_s=_LIMIT_S)
            agent.stop(limit_s=_LIMIT_S)
        record = SoftwareSlots(self._data).record
        return {
            "machine_of_the_device": _MACHINE,
            "wheel_set": {"sha256": sha256, "mb": round(path.stat().st_size / 1e6, 1)},
            "programs": sorted(emulated),
            "software_committed": record.active == sha256,
            "seconds": self._seconds,
            "story": stories,
        }

    def _update(self, fleet: SmallFleet, socket: Path) -> list[str]:
        """Commit a release, update it, and see a bad one go back."""
        stream = LiveStream(self._bed.examples / "digits.npz", seed=1, blank_share=0.0)
        application = Application(_DEVICE, socket, stream, requests_per_s=_REQUESTS_PER_S)
        try:
            for version in ("1.0.0", "1.1.0"):
                rollout = fleet.roll_out(version)
                self._timed(f"committed_{version}", lambda v=version: fleet.wait_for_event("committed", v))
                fleet.wait_for_end(rollout)
                assert fleet.answer(BLANK).release == f"{PRODUCT} {version}"
            fleet.roll_out("3.0.0")
            fleet.wait_for_event("trial-started", "3.0.0")
            fleet.answer(BLANK)
            self._timed("rolled_back", lambda: fleet.wait_for_event("rollback-verified", "1.1.0"))
        finally:
            application.stop()
        return fleet.story()

    def _started(self) -> Program:
        launcher = self._python.software / "device_agent" / "launcher.py"
        command = self._python.command(launcher, "run", "--data", self._data, "--config", self._data / "agent.toml")
        log = self._bed.logs / "arm.log"
        command += ["--time-scale", str(_TIME_SCALE)]
        return Program("the agent on aarch64", command, log=log, environment=self._python.environment)

    def _says(self, *words: object, limit_s: float = _LIMIT_S) -> None:
        done = self._python.run(["-m", "device_agent", *words, "--data", self._data, "--json"], limit_s=limit_s)
        if done.status != 0:
            sys.exit(f"{words[0]} failed: {done.stdout.decode()} {done.stderr.decode()[-2000:]}")

    def _timed(self, name: str, work: Callable[[], object]) -> None:
        started = time.monotonic()
        work()
        self._seconds[name] = round(time.monotonic() - started, 1)


if __name__ == "__main__":
    main()
