# SPDX-License-Identifier: Apache-2.0
"""A rehearsal: a few real agents under constant load, and three good releases that go round among them.

An agent keeps its active release and the one before, so with three in turn every update is a whole one: it is found,
fetched, admitted, shadowed, tried and committed.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.demo.applications import Application
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.testbed import PRODUCT, RealAgent, Testbed

#: Production rules, made small enough for one to four devices. Kills from outside are unexplained deaths, not faults.
POLICY = """\
format_version = 1

[device]
shadow = { samples = 20, limit_s = 3600.0 }
trial = { requests = 40, minimum_s = 60.0, limit_s = 36000.0, unexplained_limit = 1000 }

[rollout]
holdout_percent = 0.0
waves = [{ percent = 50.0, minimum_s = 60.0 }, { percent = 100.0, minimum_s = 60.0 }]

[rollout.gate]
minimum_requests = 20
failed_devices = 0.0
accuracy_drop = 0.5
disagreement = 0.5
limit_s = 36000.0
"""
MODELS = {"1.0.0": "v1_float32.tflite", "1.1.0": "v5_float32.tflite", "1.2.0": "v1_float32.tflite"}
ENDED = ("completed", "rolled-back")
_TIME_SCALE = 60
_REQUESTS_PER_S = 25.0
_ROLLOUT_LIMIT_S = 300.0
_LOOK_AGAIN_S = 0.05

T = TypeVar("T")


class Rehearsal:
    """``agents`` real agents, a server and a broker; the first release is committed when the set-up returns.

    ``seed`` decides what the applications ask.
    """

    def __init__(self, folder: Path, examples: Path, *, agents: int, seed: int) -> None:
        self.bed = Testbed(folder, examples, time_scale=_TIME_SCALE, poll_s=2.0)
        self.applications: list[Application] = []
        self.rollouts: list[str] = []
        self._seed = seed
        self._names = [f"agent-{number}" for number in range(1, agents + 1)]
        self._versions = cycle(MODELS)

    def set_up(self) -> None:
        """Put everything up, and bring the first release to every agent.

        Raises:
            EdgeFleetError: a command failed, or the first release did not reach all agents.
        """
        with ThreadPoolExecutor(1) as bench:
            converted = bench.submit(self._convert)
            self.bed.set_up_server()
            self.bed.start_agents(self._names)
            bundles = converted.result()
        policy = self.bed.folder / "policy.toml"
        policy.write_text(POLICY)
        for version, bundle in bundles.items():
            self.bed.release(version, bundle, policy)
        for agent in self.bed.agents:
            self.start_application(agent)
        rollout = self.wait_for_end(self.start_rollout())
        if rollout["state"] != "completed":
            raise EdgeFleetError(f"the first rollout ended as {rollout['state']}", hint="see the logs")

    def start_application(self, agent: RealAgent) -> None:
        """Let an application ask an agent for answers at a constant rate."""
        seed = self._seed * 100 + len(self.applications)
        stream = LiveStream(self.bed.examples / "digits.npz", seed=seed)
        self.applications.append(Application(agent.device, agent.socket, stream, requests_per_s=_REQUESTS_PER_S))

    def start_rollout(self) -> str:
        """Start the next release's rollout, and return its id."""
        made = self.bed.api.post("rollouts", {"name": PRODUCT, "version": next(self._versions)})
        self.rollouts.append(str(made["id"]))
        return self.rollouts[-1]

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        """Return a rollout as the API shows it."""
        found: dict[str, Any] = self.bed.api.get(f"rollouts/{rollout_id}")
        return found

    def wait_for_end(self, rollout_id: str) -> dict[str, Any]:
        """Wait until a rollout has ended, and return it."""

        def look() -> dict[str, Any] | None:
            rollout = self.rollout(rollout_id)
            return rollout if rollout["state"] in ENDED else None

        return wait_until(look, f"the rollout {rollout_id} to end", limit_s=_ROLLOUT_LIMIT_S)

    def stop(self) -> None:
        """Stop everything."""
        for application in self.applications:
            application.stop()
        self.bed.stop()

    def __enter__(self) -> Self:
        try:
            self.set_up()
        except BaseException:  # whatever it was, no program may be left behind
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _convert(self) -> dict[str, Path]:
        samples = self.bed.folder / "calibration.npz"
        samples.parent.mkdir(parents=True, exist_ok=True)
        with np.load(self.bed.examples / "digits.npz", allow_pickle=False) as digits:
            np.savez(samples, x=digits["calibration_x"], y=digits["calibration_y"])
        return {version: self.bed.convert(version, model, samples) for version, model in MODELS.items()}


def wait_until(look: Callable[[], T | None], what: str, *, limit_s: float) -> T:
    """Look again and again until there is something to see, and return it.

    Raises:
        EdgeFleetError: there is nothing in time.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(_LOOK_AGAIN_S)
    raise EdgeFleetError(f"waited {limit_s:.0f} s for {what}", hint="see the programs' logs")
