# SPDX-License-Identifier: Apache-2.0
"""The applications on the real agents: a constant stream of requests, counted by the application itself."""

import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from device_agent.client import InferenceClient, RawTensor
from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.live_stream import Frame, LiveStream

_SLOW_S = 0.2
#: An answer that is late is told as late; on a machine that does much else it is no failure of the agent.
_PATIENCE_S = 60.0
_ANSWERS_KEPT = 100_000


class Served(NamedTuple):
    """One answered request: when it was asked (CLOCK_MONOTONIC), how long it took, and which release answered."""

    at: float
    seconds: float
    release: str


class Application:
    """Asks one agent for an answer at a constant rate, whatever happens there, and later says what was right.

    Requests are counted from the first answer on: before it the device has no model. ``answers`` holds the newest.
    """

    def __init__(self, name: str, socket: Path, stream: LiveStream, *, requests_per_s: float) -> None:
        self.served = 0
        self.failed = 0
        self.over_200_ms = 0
        self.slowest_s = 0.0
        self.failures: list[str] = []
        self.answers: deque[Served] = deque(maxlen=_ANSWERS_KEPT)
        self._socket = socket
        self._stream = stream
        self._between_s = 1.0 / requests_per_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"application of {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        with InferenceClient(self._socket, timeout_s=_PATIENCE_S) as client:
            for frame in self._stream:
                due += self._between_s
                if self._ended.wait(max(0.0, due - time.monotonic())):
                    return
                self._ask(client, frame)

    def _ask(self, client: InferenceClient, frame: Frame) -> None:
        started = time.monotonic()
        try:
            answer = client.infer(RawTensor(frame.pixels.tobytes(), str(frame.pixels.dtype), frame.pixels.shape))
        except EdgeFleetError as error:
            self._count_failure(error.message)
            return
        if answer.status == "no-model" and not self.served:
            return
        if answer.status != "ok":
            self._count_failure(f"{answer.status}: {answer.detail}")
            return
        seconds = time.monotonic() - started
        self.served += 1
        self.over_200_ms += seconds > _SLOW_S
        self.slowest_s = max(self.slowest_s, seconds)
        self.answers.append(Served(started, seconds, answer.release))
        if self._stream.is_labelled(frame):
            self._say_what_was_right(client, answer.request_id, frame.label)

    def _say_what_was_right(self, client: InferenceClient, request_id: int, label: object) -> None:
        try:
            client.feedback(request_id, str(label))
        except EdgeFleetError as error:  # the agent went away after its answer: the application asks on
            self._count_failure(error.message)

    def _count_failure(self, why: str) -> None:
        if self.served:
            self.failed += 1
            self.failures.append(why)
