# SPDX-License-Identifier: Apache-2.0
"""When to tell a device again that something is new: its hint may have been lost, or come before it listened."""

from collections.abc import Mapping
from typing import NamedTuple

_FIRST_S = 2.0
_LONGEST_S = 300.0


class Waiting(NamedTuple):
    """A device that has not seen the order ``counter`` yet: it is reminded at ``at``, and after that in ``pause_s``."""

    counter: int
    at: float
    pause_s: float


def remind(
    waiting: Mapping[str, Waiting], behind: Mapping[str, int], now: float
) -> tuple[dict[str, Waiting], dict[str, int]]:
    """Return what is waited for from now on, and whom to remind now, of which counter.

    ``behind`` names the connected devices that have not seen their newest order, and its counter. Each is given two
    seconds to see it, then reminded after pauses that double up to five minutes; a new order begins anew.
    """
    next_waiting: dict[str, Waiting] = {}
    reminded: dict[str, int] = {}
    for device, counter in behind.items():
        known = waiting.get(device)
        if known is None or known.counter != counter:
            next_waiting[device] = Waiting(counter, now + _FIRST_S, _FIRST_S)
        elif now < known.at:
            next_waiting[device] = known
        else:
            reminded[device] = counter
            pause_s = min(2 * known.pause_s, _LONGEST_S)
            next_waiting[device] = Waiting(counter, now + pause_s, pause_s)
    return next_waiting, reminded
