# SPDX-License-Identifier: Apache-2.0
"""What becomes of inputs that the worker hands over: redacted and stored one at a time, delivered now and then."""

import logging
from concurrent.futures import Future

from device_agent.ports import Captures, Ports
from edgefleet.contracts.capture import CapturedInput
from edgefleet.contracts.errors import EdgeFleetError

_LOG = logging.getLogger("edgefleet.agent")
DELIVER_EVERY_S = 900.0


class Capturing:
    """At most one piece of work at a time, on the executor; what comes meanwhile is let go."""

    def __init__(self, ports: Ports, *, time_scale: float) -> None:
        self._ports = ports
        self._every_s = DELIVER_EVERY_S / time_scale
        self._deliver_at = ports.clock.monotonic() + self._every_s
        self._work: Future[bool] | Future[None] | None = None

    def offer(self, captured: CapturedInput, *, limit_bytes: int) -> None:
        """Have an input stored, where the settings in force still give room to any."""
        if self._ports.captures is not None and limit_bytes and self._work is None:
            now_s = self._ports.clock.monotonic()
            self._work = self._ports.executor.submit(self._ports.captures.keep, captured, now_s)

    def step(self) -> None:
        """Look at what has ended, and deliver if it is time."""
        if self._work is not None and self._work.done():
            _look_at(self._work)
            self._work = None
        captures: Captures | None = self._ports.captures
        now_s = self._ports.clock.monotonic()
        if captures is not None and self._work is None and now_s >= self._deliver_at:
            self._deliver_at = now_s + self._every_s
            self._work = self._ports.executor.submit(captures.deliver)


def _look_at(done: "Future[bool] | Future[None]") -> None:
    error = done.exception()
    if isinstance(error, EdgeFleetError | OSError):
        _LOG.warning("captured inputs: %s", error)
    elif error is not None:
        _LOG.error("captured inputs: %s: %s", type(error).__name__, error)
