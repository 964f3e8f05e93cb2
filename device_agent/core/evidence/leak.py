# SPDX-License-Identifier: Apache-2.0
"""Does a model keep memory with each inference? Pure figures over private memory, measured between inferences.

What grows once is a cache, and what grows ever more slowly is one too. A leak grows in each part of the measurement,
and in the later half at no less than half the rate of the whole.

Admission sees what leaks much: 1 MiB within its inferences. A model that leaks little, or is slow, is committed; from
then on it is alone in its worker, and :class:`Growth` tells of it after 16 MiB: 1 KiB a request after some 16,400.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from device_agent.core.evidence.usefulness import Useless
from edgefleet.contracts.messages import ModelWindow

#: Inferences of an admission that kept so much were a leak, and so were requests of a worker that did.
LEAST_BYTES = 1 << 20
LEAST_WORKER_BYTES = 16 << 20
#: A leak shows in so many parts at least; a worker's requests are measured in at most twice as many.
LEAST_PARTS = 4
_FIRST_PART = 64


class Point(NamedTuple):
    """Private memory after so many inferences."""

    inferences: int
    held_bytes: int


def kept_bytes(points: Sequence[Point]) -> int:
    """Return how much memory was kept if it grew steadily from point to point, else 0."""
    if len(points) <= LEAST_PARTS or any(after.held_bytes <= before.held_bytes for before, after in pairwise(points)):
        return 0
    first, last = points[0], points[-1]
    middle = max(point for point in points if 2 * point.inferences <= first.inferences + last.inferences)
    return last.held_bytes - first.held_bytes if 2.0 * _rate(middle, last) >= _rate(first, last) else 0


def _rate(first: Point, last: Point) -> float:
    return (last.held_bytes - first.held_bytes) / max(last.inferences - first.inferences, 1)


class Growth:
    """The memory of a worker that serves one committed model, over its requests."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: other models answer, or another worker."""
        self._requests = 0
        self._part = _FIRST_PART
        self._points: list[Point] = []

    def look(self, windows: Iterable[ModelWindow], held_bytes: int) -> Useless | None:
        """Count what was answered since the last look; return the one model that answers if it leaks."""
        answered = [window for window in windows if window.requests]
        self._requests += sum(window.requests for window in answered)
        bundles = {window.release.bundle_sha256 for window in answered if window.role == "active"}
        if len(bundles) != 1 or not held_bytes or not self._measured(held_bytes):
            return None
        kept = kept_bytes(self._points)
        if kept < LEAST_WORKER_BYTES:
            return None
        over = self._points[-1].inferences - self._points[0].inferences
        self.forget()
        return Useless(bundles.pop(), "memory-leak", f"{over} requests kept {kept} bytes in the worker")

    def _measured(self, held_bytes: int) -> bool:
        """Take a measurement if a part is over; of twice as many parts as are needed, each two become one."""
        since = self._points[-1].inferences if self._points else 0
        if self._requests < since + self._part:
            return False
        self._points.append(Point(self._requests, held_bytes))
        if len(self._points) > 2 * LEAST_PARTS:
            self._points, self._part = self._points[::2], 2 * self._part
        return True
