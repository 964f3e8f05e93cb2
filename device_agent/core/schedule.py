# SPDX-License-Identifier: Apache-2.0
"""When to try again: exponential back-off and jitter, with the random number as an argument."""

from dataclasses import dataclass

#: So many crashes and hangs of a good model within so long are a crash loop: the model is left.
CRASH_LOOP_LIMIT = 5
CRASH_WINDOW_S = 600.0


@dataclass(frozen=True)
class Backoff:
    """Delays that double from ``first_s`` to ``cap_s``, spread over the upper half of each delay."""

    first_s: float
    cap_s: float

    def faster(self, times: float) -> "Backoff":
        """Return the same back-off where time runs faster."""
        return Backoff(first_s=self.first_s / times, cap_s=self.cap_s / times)

    def delay_s(self, failures: int, random: float) -> float:
        """Return the delay after ``failures`` in a row (0 or 1: the first delay); ``random`` lies in [0, 1)."""
        exponent = min(max(failures - 1, 0), 32)
        full = min(self.first_s * 2.0**exponent, self.cap_s)
        return full * (0.5 + 0.5 * random)


#: Of the worker's restarts; a death that comes this long after the last one is a first one again.
RESTART = Backoff(first_s=0.05, cap_s=30.0)
STEADY_S = 2.0 * RESTART.cap_s


def jittered_s(period_s: float, random: float) -> float:
    """Return a period spread by a tenth to both sides, so that a fleet does not poll in step."""
    return period_s * (0.9 + 0.2 * random)
