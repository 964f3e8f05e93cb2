# SPDX-License-Identifier: Apache-2.0
"""When the application's end looks for an answer, and when it sleeps: learnt from this model's recent answers.

Who sleeps is woken late; how late, on this machine, is learnt. Who looks takes a processor instead. So one looks where
that takes no more than a few times what being woken late costs: for an answer that is due at once, and for the last
stretch of one that is due later, most of which is slept through. Where answers come too unevenly to be foretold, one
sleeps until the worker rings.
"""

from typing import NamedTuple

#: The weight of each new observation, as TCP learns round trips and their deviation (RFC 6298).
_MEAN_WEIGHT, _DEVIATION_WEIGHT = 0.125, 0.25
#: An answer is looked for so many deviations before and after it is expected, and then for as long as blocking costs.
_DEVIATIONS = 2.0
#: How late a sleeper is woken until that is known: Linux lets a timer be 50 µs late, and a processor has to wake up.
_FIRST_LATE_S = 100e-6
#: What is beyond these was the machine's load, and no reason to look for longer.
_LEAST_LATE_S, _MOST_LATE_S = 20e-6, 200e-6
#: The longest that one looks, in times of being woken late: who blocks after as long as blocking costs takes at most
#: twice the time of one who knew (Karlin et al., 1990); the rest is room for deviations.
_MOST_LOOKED = 4.0


class Plan(NamedTuple):
    """Seconds after a request: sleep at first, look until; both 0 where nothing is looked for."""

    sleep_s: float
    look_until_s: float


class Pace:
    """What was learnt of one connection."""

    def __init__(self) -> None:
        self.late_s = _FIRST_LATE_S
        self.plan = Plan(0.0, _MOST_LOOKED * _FIRST_LATE_S)
        self._expected_s = 0.0
        self._deviation_s = 0.0

    def answered(self, seconds: float) -> None:
        """Learn how long an answer took."""
        if not self._expected_s:
            self._expected_s, self._deviation_s = seconds, seconds / 2.0
        error_s = seconds - self._expected_s
        error_s = min(error_s, self._expected_s + self.late_s)  # what is beyond was the machine's load
        self._expected_s += _MEAN_WEIGHT * error_s
        self._deviation_s += _DEVIATION_WEIGHT * (abs(error_s) - self._deviation_s)
        self.plan = self._planned()

    def overslept(self, seconds: float) -> None:
        """Learn from an answer that was there before one woke up."""
        self.answered(max(seconds - self.late_s, 0.0))

    def woken(self, late_s: float) -> None:
        """Learn how late a sleep ended."""
        self.late_s += _MEAN_WEIGHT * (min(max(late_s, _LEAST_LATE_S), _MOST_LATE_S) - self.late_s)

    def _planned(self) -> Plan:
        margin_s = _DEVIATIONS * self._deviation_s
        until_s = self._expected_s + margin_s + self.late_s
        sleep_s = self._expected_s - margin_s - self.late_s
        if sleep_s < self.late_s:  # one would be woken too late
            sleep_s = 0.0
        looked_s = until_s - sleep_s - (self.late_s if sleep_s else 0.0)
        return Plan(sleep_s, until_s) if looked_s <= _MOST_LOOKED * self.late_s else Plan(0.0, 0.0)
