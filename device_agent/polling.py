# SPDX-License-Identifier: Apache-2.0
"""Asking the director: when, on which thread, and what came of it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future

from device_agent.core.orders.release_orders import Order
from device_agent.core.schedule import Backoff, jittered_s
from device_agent.core.timers import Timers
from device_agent.errors import TrustRefusedError
from device_agent.ports import Ports
from edgefleet.contracts.errors import EdgeFleetError

_LOG = logging.getLogger("edgefleet.agent")
_RETRY = Backoff(first_s=2.0, cap_s=300.0)
#: Between the beginnings of two checks that hints ask for: a flood of hints is no flood of requests.
_PAUSE_S = 0.5


class Polling:
    """One check of both repositories at a time, on the executor; ``order`` is the last one that they agreed on."""

    def __init__(self, ports: Ports, timers: Timers, *, poll_s: float, wake: Callable[[], None]) -> None:
        self.order: Order | None = None
        self.failures = 0
        self._ports = ports
        self._timers = timers
        self._poll_s = poll_s
        self._wake = wake
        self._checking: Future[Order] | None = None
        self._began_at = float("-inf")

    def every(self, poll_s: float) -> None:
        """Check in another period, from the next check on."""
        self._poll_s = poll_s

    @property
    def checking(self) -> bool:
        """Tell whether a check is under way."""
        return self._checking is not None

    @property
    def began(self) -> bool:
        """Tell whether any check has begun since the agent's start."""
        return self._began_at > float("-inf")

    def first(self, at: float) -> None:
        """Plan the first check; a hint may bring it forward."""
        self._timers.set("poll", at)

    def soon(self) -> None:
        """Check at the next opportunity: after the first time, not sooner than a moment after the last check began."""
        self._timers.sooner("poll", max(self._ports.clock.monotonic(), self._began_at + _PAUSE_S))

    def start_if_due(self, seen_counter: int) -> None:
        """Start a check if it is time and none is under way."""
        if self._checking is None and self._timers.take("poll", self._ports.clock.monotonic()):
            self._began_at = self._ports.clock.monotonic()
            self._checking = self._ports.executor.submit(self._ports.repositories.check, seen_counter)
            self._checking.add_done_callback(lambda _: self._wake())

    def finish(self) -> Order | TrustRefusedError | None:
        """Return the outcome of a check that has ended, once; a server that is away is only tried again."""
        if self._checking is None or not self._checking.done():
            return None
        done, self._checking = self._checking, None
        next_s = jittered_s(self._poll_s, self._ports.random())
        try:
            self.order = done.result()
        except TrustRefusedError as error:
            self.order = None
            return error
        except Exception as error:  # noqa: BLE001  a defect in a check must never end inference
            self.failures += 1
            _LOG.warning("%s", error, exc_info=None if isinstance(error, EdgeFleetError) else error)
            next_s = min(next_s, _RETRY.delay_s(self.failures, self._ports.random()))
            return None
        else:
            self.failures = 0
            return self.order
        finally:
            self._timers.sooner("poll", self._ports.clock.monotonic() + next_s)
