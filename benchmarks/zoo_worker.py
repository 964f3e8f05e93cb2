# SPDX-License-Identifier: Apache-2.0
"""A device for the zoo with processes of its own: the real worker, the real admission child, and a clock that goes."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.zoo_device import AtOnce, ZooDevice
from device_agent.adapters.children.admission_process import AdmissionProcess
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import Collected, Died, Report
from device_agent.settings import AgentSettings
from device_agent.wiring import SystemClock, assemble
from edgefleet.contracts.errors import EdgeFleetError

Array = npt.NDArray[Any]
_LIMIT_S = 120.0
_TICK_S = 0.005
#: A death is followed by a new worker, which the next questions wait for.
_REPORTS = (Collected, Died)


class CountedWorker(WorkerProcess):
    """The worker process; ``reported`` counts what came of requests for counts."""

    reported = 0

    def reports(self) -> list[Report]:
        """Return the reports since the last call."""
        found = super().reports()
        self.reported += sum(isinstance(report, _REPORTS) for report in found)
        return found


class WorkedDevice(ZooDevice):
    """One device; :meth:`live` lets an application ask through the socket while the agent is ticked."""

    minimum_s = 0.0

    def __init__(self, folder: Path, *, admission: AdmissionProcess) -> None:
        self._socket = folder / "inference.sock"
        super().__init__(folder, admission=admission)

    def start(self) -> None:
        """Switch the device on."""
        self.folder.slots.mkdir(parents=True, exist_ok=True)
        self._listener = listen(self._socket)
        self.worker = CountedWorker(self._listener, readable=[self.folder.slots])
        self.agent = assemble(
            self.folder,
            AgentSettings(poll_s=0.2, telemetry_s=1e6, compare_share=1.0, reserve_bytes=0),
            inference=self.worker,
            repositories=self.shelf,
            admission=self.admission,
            executor=AtOnce(),
            clock=SystemClock(),
        )
        self.agent.start()

    def stop(self, *, cleanly: bool) -> None:
        """Switch the device off, or let its processes end without a word."""
        if cleanly:
            self.agent.stop()
        else:
            self.worker.stop()
        self._listener.close()

    def live(self, pictures: Iterable[tuple[Array, int | None]], seconds: float = 0.0) -> None:  # noqa: ARG002
        """Ask once for each picture, label those that have a label, and see what comes of it."""
        application = threading.Thread(target=self._ask, args=(list(pictures),), daemon=True)
        application.start()
        until = time.monotonic() + _LIMIT_S
        while application.is_alive() and time.monotonic() < until:
            self.agent.tick()
            application.join(_TICK_S)
        before = self.worker.reported
        self.agent.timers.sooner("collect", 0.0)
        while self.worker.reported == before and time.monotonic() < until:
            self.agent.tick()
            application.join(_TICK_S)
            time.sleep(_TICK_S)

    def _ask(self, pictures: list[tuple[Array, int | None]]) -> None:
        try:
            with InferenceClient(self._socket, timeout_s=_LIMIT_S) as client:
                for picture, label in pictures:
                    answer = client.infer(np.ascontiguousarray(picture))
                    if label is not None and answer.status == "ok":
                        client.feedback(answer.request_id, str(label))
        except EdgeFleetError:
            return  # the worker that would have answered has ended: its application asks again
