# SPDX-License-Identifier: Apache-2.0
"""Does a committed model still answer? Counted over its last requests, by bundle; pure figures.

What an application sends wrongly is refused before the model sees it and is not counted, so that a request without a
finite answer is the model's own failure. Some may be rare inputs, which the fleet's gate hears of; a model that fails
most of them is of no use where another one is at hand.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from edgefleet.contracts.messages import ModelWindow

#: So many of the last requests are looked at; a model is useless if so many of them failed, and more than half.
LAST_REQUESTS = 200
LEAST_FAILED = 50


class Useless(NamedTuple):
    """A committed bundle that fails most requests: the cause (kebab-case) and a sentence."""

    bundle_sha256: str
    cause: str
    detail: str


class Usefulness:
    """The last requests of the models that answer."""

    def __init__(self) -> None:
        self._windows: dict[str, deque[ModelWindow]] = {}

    def forget(self) -> None:
        """Begin anew: other models answer."""
        self._windows.clear()

    def look(self, windows: Iterable[ModelWindow]) -> Useless | None:
        """Count what models answered since the last look; return one that is of no use."""
        found = None
        for window in windows:
            if window.role == "active" and window.requests:
                last = self._windows.setdefault(window.release.bundle_sha256, deque())
                last.append(window)
                while sum(each.requests for each in last) - last[0].requests >= LAST_REQUESTS:
                    last.popleft()
                found = found or _judged(last)
        return found


def _judged(last: deque[ModelWindow]) -> Useless | None:
    requests = sum(window.requests for window in last)
    non_finite = sum(window.non_finite for window in last)
    failed = non_finite + sum(window.failed for window in last)
    if failed < LEAST_FAILED or 2 * failed <= requests:
        return None
    cause = "non-finite" if 2 * non_finite >= failed else "failed-requests"
    return Useless(last[0].release.bundle_sha256, cause, f"{failed} of the last {requests} requests had no answer")
