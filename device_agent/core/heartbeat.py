# SPDX-License-Identifier: Apache-2.0
"""When the agent may tell the service manager that it is alive: its loop turns, and its worker is not hung.

A silent worker is the agent's own to end; only where that came to nothing does the manager's watchdog act.
"""

#: A quarter of what the manager waits: a beat that comes late is none that is missed.
_BEATS = 4.0
#: The agent ends a silent worker after its own limit, and gets as much time again to see the new one up.
_PATIENCE = 3.0


class Heartbeat:
    """Times on the caller's clock; ``watchdog_s`` is the manager's limit (0: none), ``silence_s`` the worker's."""

    def __init__(self, *, watchdog_s: float, silence_s: float) -> None:
        self._every_s = watchdog_s / _BEATS
        self._silence_s = _PATIENCE * silence_s
        self._heard_at: float | None = None
        self._beat_at = float("-inf")

    def worker(self, now: float, *, present: bool) -> None:
        """Take note of a new worker, or that there is none just now."""
        self._heard_at = now if present else None

    def heard(self, now: float) -> None:
        """Take note of a sign of life of the worker."""
        self._heard_at = now

    def hung(self, now: float) -> bool:
        """Tell whether there is a worker that has been silent for too long."""
        return self._heard_at is not None and now - self._heard_at > self._silence_s

    def beats(self, now: float) -> bool:
        """Tell, at each turn of the loop, whether to tell the manager now."""
        if not self._every_s or now - self._beat_at < self._every_s or self.hung(now):
            return False
        self._beat_at = now
        return True

    def wait_s(self, now: float, limit_s: float) -> float:
        """Return how long the loop may sleep, so that no beat is missed."""
        if not self._every_s or self.hung(now):
            return limit_s
        return max(0.0, min(limit_s, self._beat_at + self._every_s - now))
