# SPDX-License-Identifier: Apache-2.0
"""The thread that loads the runtime, and then loads and verifies models, one command at a time."""

import ctypes
import gc
import os
import queue
import threading
from contextlib import suppress
from typing import NamedTuple

from device_agent.core.serving import Report, ServingPlan, Verify
from device_agent.worker.engine import Engine, verify
from device_agent.worker.places import Prepared, serving
from edgefleet.contracts.errors import MissingExtraError
from edgefleet.runtimes.litert import installed_library


class Outcome(NamedTuple):
    """What came of a command: what to put in force now, if anything, and what to report."""

    report: Report
    prepared: Prepared | None = None


class Loader:
    """Loads in the background; :attr:`busy` until the outcome was taken."""

    def __init__(self, engine: Engine, wake: int) -> None:
        self.busy = False
        self._engine = engine
        self._wake = wake
        self._given: queue.SimpleQueue[ServingPlan | Verify] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="loader").start()

    def give(self, command: ServingPlan | Verify) -> None:
        """Load a plan or verify a model; for a cold plan, the models that it takes away are gone already."""
        self.busy = True
        self._given.put(command)

    def outcomes(self) -> list[Outcome]:
        """Return what is done since the last call."""
        outcomes = []
        while not self._done.empty():
            outcomes.append(self._done.get())
            self.busy = False
        return outcomes

    def _run(self) -> None:
        with suppress(MissingExtraError):  # told where a model is to be loaded
            _ = installed_library().interpreter
        while True:
            self._done.put(self._carried_out(self._given.get()))
            os.write(self._wake, b"\0")

    def _carried_out(self, command: ServingPlan | Verify) -> Outcome:
        if isinstance(command, Verify):
            return Outcome(verify(command.model))
        if command.swap == "cold":
            give_memory_back()
            outcome, prepared = self._engine.prepare_cold(command)
        else:
            outcome = self._engine.prepare(command)
            prepared = outcome if isinstance(outcome, Prepared) else None
        return Outcome(serving(outcome) if isinstance(outcome, Prepared) else outcome, prepared)


def give_memory_back() -> None:
    """Give free memory of the allocator back to the system, where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
