# SPDX-License-Identifier: Apache-2.0
"""A thread for each slow model, where there are several models: the quick ones do not wait for it."""

import os
import queue
import threading
import time
from typing import NamedTuple

from device_agent.core.serving import LaneCall
from device_agent.worker.engine import Engine, Reply
from device_agent.worker.sessions import Session

#: A model that takes longer gets a lane of its own where another model would have to wait for it.
SLOW_S = 0.002


class Answered(NamedTuple):
    """What a lane answered to whom, for which model (as the request named it), and how long that took."""

    session: Session
    model: str
    reply: Reply
    seconds: float


class Lanes:
    """Runs one request a lane at a time; what came of them is taken by the thread that gave them."""

    def __init__(self, engine: Engine, wake: int) -> None:
        self._engine = engine
        self._wake = wake
        self._lanes: dict[str, queue.SimpleQueue[Session]] = {}
        #: Which thread is at work for which model, and since when.
        self._calls: dict[str, tuple[int, float]] = {}
        self._done: queue.SimpleQueue[tuple[str, Answered | None]] = queue.SimpleQueue()
        #: Models whose lane is at work.
        self.busy: set[str] = set()

    def give(self, model: str, session: Session) -> None:
        """Let a model's lane answer a session's request."""
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(model, lane), daemon=True, name=f"lane {model}").start()
        self.busy.add(model)
        lane.put(session)

    def answered(self) -> list[Answered]:
        """Return what was answered since the last call, and free the lanes that are done."""
        answers: list[Answered] = []
        while not self._done.empty():
            model, answered = self._done.get()
            if answered is None:
                self.busy.discard(model)
            else:
                answers.append(answered)
        return answers

    def calls(self) -> tuple[LaneCall, ...]:
        """Return which bundles the lanes run just now."""
        running = [(self._engine.at_work(model), *call) for model, call in list(self._calls.items())]
        return tuple(LaneCall(bundle_sha256=sha256, thread=t, since_s=at) for sha256, t, at in running if sha256)

    def _run(self, model: str, lane: "queue.SimpleQueue[Session]") -> None:
        while True:
            session = lane.get()
            asked = session.asked
            if asked is not None:
                self._calls[model] = threading.get_native_id(), time.monotonic()
                started = time.perf_counter()
                reply = self._engine.infer_safely(asked.raw, asked.model)
                self._tell(model, Answered(session, asked.model, reply, time.perf_counter() - started))
                self._engine.settle()
                del self._calls[model]
            del session, asked
            self._tell(model, None)

    def _tell(self, model: str, answered: Answered | None) -> None:
        self._done.put((model, answered))
        os.write(self._wake, b"\0")
