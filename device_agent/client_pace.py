# SPDX-License-Identifier: Apache-2.0
"""When the application's end looks for an answer, and when it sleeps: learnt from this model's recent answers.

Who sleeps is woken late; how late, on this machine, is learnt. Who looks takes a processor instead. So one looks where
that takes no more than a few times what being woken late costs, or a small share of the answer's time: for an answer
that is due at once, and for the last stretch of one that is due later, most of which is slept through. Where answers
come too unevenly to be foretold, one sleeps until the worker rings.
"""

from collections import deque
from typing import NamedTuple

#: Answers that are looked back at: enough for the shares below, and soon others when a model or its input changes.
_RECENT = 16
#: An answer is looked for from when an eighth of the recent ones were there, until three quarters were, and then for
#: as long as blocking would cost.
_EARLY, _MIDDLE, _LATE = _RECENT // 8, _RECENT // 2, 3 * _RECENT // 4
#: How late a sleeper is woken until that is known: Linux lets a timer be 50 µs late, and a processor has to wake up.
_FIRST_LATE_S = 100e-6
#: The weight of each new observation, as TCP learns round trips (RFC 6298). What is beyond the upper limit was the
#: machine's load, and no reason to look for longer. The lower one is what sleeping costs where timers are exact: a
#: processor that slept is slow for a while (on a server's processor, KWS: 23 µs an answer).
_WEIGHT, _LEAST_LATE_S, _MOST_LATE_S = 0.125, 50e-6, 200e-6
#: The longest that one looks, in times of being woken late: who blocks after as long as blocking costs takes at most
#: twice the time of one who knew (Karlin et al., 1990); the rest is room for answers that differ. And the share of a
#: slow answer's time, for where these differ by more.
_MOST_LOOKED, _MOST_SHARE = 4.0, 0.125


class Plan(NamedTuple):
    """Seconds after a request: sleep at first, look until; both 0 where nothing is looked for."""

    sleep_s: float
    look_until_s: float


class Pace:
    """What was learnt of one connection."""

    def __init__(self) -> None:
        self.late_s = _FIRST_LATE_S
        self.plan = Plan(0.0, _MOST_LOOKED * _FIRST_LATE_S)
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def answered(self, seconds: float) -> None:
        """Learn how long an answer took."""
        self._recent.append(seconds)
        self.plan = self._planned()

    def overslept(self, seconds: float) -> None:
        """Learn from an answer that was there before one woke up."""
        self.answered(max(seconds - self.late_s, 0.0))

    def woken(self, late_s: float) -> None:
        """Learn how late a sleep ended."""
        self.late_s += _WEIGHT * (min(max(late_s, _LEAST_LATE_S), _MOST_LATE_S) - self.late_s)

    def _planned(self) -> Plan:
        seconds = sorted(self._recent)
        early_s, middle_s, late_s = (seconds[len(seconds) * place // _RECENT] for place in (_EARLY, _MIDDLE, _LATE))
        sleep_s = early_s - self.late_s
        if sleep_s < self.late_s or late_s + self.late_s <= _MOST_LOOKED * self.late_s:
            sleep_s = 0.0  # one would be woken too late, or may look all the time
        awake_s = sleep_s + self.late_s if sleep_s else 0.0
        most_s = max(_MOST_LOOKED * self.late_s, _MOST_SHARE * middle_s)
        until_s = min(late_s + self.late_s, awake_s + most_s)
        return Plan(sleep_s, until_s) if middle_s <= until_s else Plan(0.0, 0.0)
