# SPDX-License-Identifier: Apache-2.0
"""How fast a transfer goes, window by window: a server that trickles is not waited for."""


class Pace:
    """Judges a transfer that ``began`` at a monotonic time; a window without enough bytes is too slow."""

    def __init__(self, slowest_bytes_s: float, window_s: float, *, began: float) -> None:
        self._enough = slowest_bytes_s * window_s
        self._window_s = window_s
        self._since = began
        self._bytes = 0

    def too_slow(self, count_bytes: int, now: float) -> bool:
        """Tell whether the window that these bytes end was too slow; a new window begins with the next ones."""
        self._bytes += count_bytes
        if now - self._since < self._window_s:
            return False
        slow = self._bytes < self._enough * (now - self._since) / self._window_s
        self._since, self._bytes = now, 0
        return slow
