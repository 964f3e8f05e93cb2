# SPDX-License-Identifier: Apache-2.0
"""``python -m fleet_emulation.simulated_fleet CONFIG.json``: many devices in one process.

Each device is the real agent over its ports: it verifies both repositories, keeps its own slots, state and outbox,
and infers for real. Only the children of an agent (inference, admission, repositories) live in this process instead
of their own. A few threads step the devices: while one of them waits until a message is on the disk, others go on.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.admission.checks import InProcessAdmission
from device_agent.repositories.in_process import InProcessRepositories
from device_agent.settings import AgentSettings
from device_agent.wiring import assemble
from device_agent.worker.engine import Engine
from device_agent.worker.in_process import InProcessInference
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.manifest import Fact, Positive
from fleet_emulation.live_stream import LiveStream

_ENROLMENTS_AT_ONCE = 4
_BACKGROUND_THREADS = 3
_STEPPING_THREADS = 4
_BEAT_S = 0.01
#: Frames that a camera keeps for a device that is busy, in seconds; older ones are dropped.
_FRAMES_KEPT_S = 0.25
#: Requests do not wait long for background work on metadata (Python's own default is 5 ms).
_SWITCH_S = 0.001


class SimulationConfig(Fact, frozen=True, kw_only=True):
    """What a simulation is told: tickets to enrol with, its folder, and how its inputs look.

    ``requests_per_s`` is each device's rate; ``digits`` the file of :class:`LiveStream`.
    """

    tickets: tuple[str, ...]
    folder: str
    digits: str
    seed: int
    requests_per_s: float
    time_scale: Positive
    settings: AgentSettings


class SimulationReady(Fact, frozen=True, kw_only=True):
    """The first line: how many devices are enrolled and at work."""

    devices: int
    pid: int


class SimulationTotals(Fact, frozen=True, kw_only=True):
    """The last line: requests of all devices since each had a first model."""

    served: int
    failed: int


class SimulatedDevice:
    """One device: its agent, its engine, and what its camera sees."""

    def __init__(
        self, folder: DataFolder, config: SimulationConfig, *, number: int, pump: MqttPump, executor: Executor
    ) -> None:
        self._random = random.Random(config.seed * 1000 + number)
        engine = Engine(random=self._random.random, nonce=self._random.getrandbits(32))
        self._engine = engine
        self._stream = LiveStream(Path(config.digits), seed=config.seed * 1000 + number)
        self._frames = iter(self._stream)
        self._between_s = 1.0 / config.requests_per_s
        self._request_at = time.monotonic() + self._random.random() * self._between_s
        self._tick_at = 0.0
        self._woken = threading.Event()
        self.served = 0
        self.failed = 0
        self.agent = assemble(
            folder,
            config.settings,
            inference=InProcessInference(engine),
            repositories=InProcessRepositories(folder, reserve_bytes=config.settings.reserve_bytes),
            admission=InProcessAdmission(alone=False),
            executor=executor,
            pump=pump,
            time_scale=float(config.time_scale),
            random_share=self._random.random,
        )
        self.agent.wake = self._woken.set
        self.agent.start()

    def step(self, now: float) -> None:
        """Do what is due at ``now`` (CLOCK_MONOTONIC)."""
        self._request_at = max(self._request_at, now - _FRAMES_KEPT_S)
        while now >= self._request_at:
            self._request()
            self._request_at += self._between_s
        if now >= self._tick_at or self._woken.is_set():
            self._woken.clear()  # before the tick: a wake during it is for the next one
            self._tick_at = now + self.agent.tick()

    def close(self) -> None:
        """Stop as a device does that is switched off properly."""
        self.agent.stop()

    def _request(self) -> None:
        frame = next(self._frames)
        reply = self._engine.infer([frame.pixels])
        self._engine.settle()
        if reply.status == "no-model":
            return  # nothing was ever installed: there is no application yet
        if reply.status != "ok":
            self.failed += 1
            return
        self.served += 1
        if self._stream.is_labelled(frame):
            self._engine.feedback(reply.request_id, str(frame.label))


def enrol_all(config: SimulationConfig) -> list[DataFolder]:
    """Enrol every ticket's device, a few at a time, and return their folders in the tickets' order."""

    def enrol_one(path: str) -> DataFolder:
        ticket = read_ticket(Path(path))
        folder = DataFolder(Path(config.folder) / ticket.device)
        if not folder.identity.exists():
            enrol(ticket, folder)
        return folder

    with ThreadPoolExecutor(_ENROLMENTS_AT_ONCE) as pool:
        return list(pool.map(enrol_one, config.tickets))


def run(devices: Sequence[SimulatedDevice], ended: threading.Event) -> None:
    """Step all devices in a steady beat until told to end, each of them always on the same thread."""
    with ThreadPoolExecutor(_STEPPING_THREADS) as pool:
        list(pool.map(_step, [devices[first::_STEPPING_THREADS] for first in range(_STEPPING_THREADS)], repeat(ended)))


def _step(devices: Sequence[SimulatedDevice], ended: threading.Event) -> None:
    try:
        while not ended.wait(_BEAT_S):
            for device in devices:
                device.step(time.monotonic())
    finally:
        ended.set()  # a fault in one device ends the simulation, and is told by its traceback


def main(arguments: Sequence[str]) -> int:
    """Run a simulation until SIGTERM."""
    config = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=SimulationConfig)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    sys.setswitchinterval(_SWITCH_S)
    folders = enrol_all(config)
    pump = MqttPump()
    with ThreadPoolExecutor(_BACKGROUND_THREADS) as executor:
        devices = [
            SimulatedDevice(folder, config, number=number, pump=pump, executor=executor)
            for number, folder in enumerate(folders)
        ]
        _say(SimulationReady(devices=len(devices), pid=os.getpid()))
        run(devices, ended)
        for device in devices:
            device.close()
    pump.stop()
    _say(SimulationTotals(served=sum(d.served for d in devices), failed=sum(d.failed for d in devices)))
    return 0


def _say(document: object) -> None:
    try:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:  # whoever started the simulation is gone
        raise StorageError("nobody reads the simulation's output", hint="start it from the demo") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
