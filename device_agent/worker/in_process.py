# SPDX-License-Identifier: Apache-2.0
"""The inference port without a process of its own: for simulations, where many devices share one process."""

from collections import deque
from typing import Literal

from device_agent.core.evidence.silence import Exertion
from device_agent.core.serving import ModelRef, Report, ServingPlan
from device_agent.worker.engine import Engine, verify


class InProcessInference:
    """An engine behind the port; a simulation answers requests with ``engine.infer`` and ``engine.settle``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reports: deque[Report] = deque()

    def start(self) -> None:
        """Nothing to start."""

    def serve(self, plan: ServingPlan) -> None:
        """Put a plan in force now."""
        self._reports.append(self.engine.serve(plan))

    def verify(self, model: ModelRef) -> None:
        """Verify now."""
        self._reports.append(verify(model))

    def collect(self) -> None:
        """Collect now."""
        self._reports.append(self.engine.collect())

    def reports(self) -> list[Report]:
        """Return the reports since the last call."""
        taken: list[Report] = [*self.engine.take_faults(), *self._reports]
        self._reports.clear()
        return taken

    def kill(self, why: str, *, kind: Literal["hang", "unexplained"], during: str = "") -> None:
        """There is no process to end."""

    def stop(self) -> None:
        """Hand over the last counts."""
        self.collect()

    def rss_bytes(self) -> int:
        """The memory is the simulation's own."""
        return 0

    def exertion(self, thread: int | None = None) -> Exertion | None:  # noqa: ARG002  the port's
        """There is no process to look at."""
        return None

    def at_work(self) -> str:
        """Nothing is at work while somebody asks."""
        return ""
