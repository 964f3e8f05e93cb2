# SPDX-License-Identifier: Apache-2.0
"""What a device may believe of its clock: never earlier than what it knows, and never more than a server says.

A dead real-time clock says 1970, and then nothing seems to have expired: expiry is judged by the later one of the
clock and a persisted lower bound. A clock far ahead expires everything: that is told, and nothing is accepted for it.
"""

from datetime import UTC, datetime

#: No copy of this code ran before (Unix seconds, 2026-11-01).
BUILT_AT = 1_793_491_200
#: Clocks without a network lose or gain less between two corrections.
TOLERANCE_S = 86_400.0


def believed(wall: float, bound: float) -> float:
    """Return the time to judge expiry by, in Unix seconds."""
    return max(wall, bound, BUILT_AT)


def behind(wall: float, bound: float) -> str:
    """Return a sentence if the clock lies far before what is known; empty if not."""
    known = max(bound, BUILT_AT)
    if wall + TOLERANCE_S >= known:
        return ""
    return f"the clock says {day(wall)}, and it is {day(known)} or later"


def ahead(wall: float, server: float | None) -> str:
    """Return a sentence if the clock lies far after the time that the server gave; empty if not, or if it gave none."""
    if server is None or wall <= server + TOLERANCE_S:
        return ""
    return f"the clock says {day(wall)}, and the server says {day(server)}"


def next_bound(bound: float, *, wall: float, server: float | None, first_expiry: float) -> float:
    """Return the lower bound after metadata was accepted.

    The clock counts as far as the server does not contradict it, and never beyond ``first_expiry``, when the first of
    the accepted metadata expires: a clock that was wrong for a moment can hold back installs for that long at most.
    """
    seen = wall if server is None else min(wall, server)
    return max(bound, min(seen, first_expiry))


def day(at: float) -> str:
    """Return a date for a sentence, whatever the number."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return f"{at:g} s after 1970"
