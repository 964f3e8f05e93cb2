# SPDX-License-Identifier: Apache-2.0
"""Which waiting request is answered next, and which is refused at once: the decisions, without threads or clocks.

Requests run in the order of their deadlines. One without a deadline counts as due :data:`PATIENCE_S` after it came, so
that a stream of urgent ones cannot hold it off for ever. Times are seconds of one clock that never jumps.
"""

import heapq
import itertools
from typing import Generic, NamedTuple, TypeVar

#: When a request without a deadline is due.
PATIENCE_S = 1.0
#: Requests that wait in all; each connection has one at most.
WAITING_LIMIT = 256

Sender = TypeVar("Sender")


class Waiting(NamedTuple, Generic[Sender]):
    """A request that waits: who asked, for which model, until when an answer is of use (0: always)."""

    due_s: float
    number: int
    sender: Sender
    model: str
    deadline_s: float
    cost_s: float


class Backlog(Generic[Sender]):
    """The requests that wait."""

    def __init__(self) -> None:
        self._heap: list[Waiting[Sender]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def refusal(self, now_s: float, deadline_s: float, cost_s: float) -> str | None:
        """Return why a request that comes now is not worth waiting for; None where it is.

        ``cost_s`` is what its inference takes, as far as that is known.
        """
        if len(self._heap) >= WAITING_LIMIT:
            return f"{len(self._heap)} requests wait already"
        if not deadline_s:
            return None
        ahead_s = sum(waiting.cost_s for waiting in self._heap if waiting.due_s <= deadline_s)
        if now_s + ahead_s + cost_s > deadline_s:
            left_s = max(deadline_s - now_s, 0.0)
            return f"{(ahead_s + cost_s) * 1e3:.0f} ms of work are ahead, and the deadline is in {left_s * 1e3:.0f} ms"
        return None

    def add(self, sender: Sender, model: str, *, now_s: float, deadline_s: float, cost_s: float) -> None:
        """Let a request wait."""
        due_s = deadline_s or now_s + PATIENCE_S
        heapq.heappush(self._heap, Waiting(due_s, next(self._numbers), sender, model, deadline_s, cost_s))

    def take(self, blocked: frozenset[str] | set[str] = frozenset()) -> Waiting[Sender] | None:
        """Take the request that is due first, leaving those for models that cannot run now; None if there is none."""
        if not blocked:
            return heapq.heappop(self._heap) if self._heap else None
        fit = [waiting for waiting in self._heap if waiting.model not in blocked]
        if not fit:
            return None
        first = min(fit)
        self._heap.remove(first)
        heapq.heapify(self._heap)
        return first

    def drop(self, sender: Sender) -> None:
        """Forget the request of a sender who is gone, so that it takes no other's place."""
        left = [waiting for waiting in self._heap if waiting.sender is not sender]
        if len(left) < len(self._heap):
            self._heap = left
            heapq.heapify(left)

    def ready(self, blocked: frozenset[str] | set[str]) -> bool:
        """Tell whether a request waits whose model can run now."""
        return any(waiting.model not in blocked for waiting in self._heap)

    def take_expired(self, now_s: float) -> list[Waiting[Sender]]:
        """Take those whose deadline is over."""
        expired = [waiting for waiting in self._heap if waiting.deadline_s and waiting.deadline_s <= now_s]
        if expired:
            self._heap = [waiting for waiting in self._heap if not (waiting.deadline_s and waiting.deadline_s <= now_s)]
            heapq.heapify(self._heap)
        return expired

    def next_deadline_s(self) -> float | None:
        """Return when the first deadline will be over; None without any."""
        return min((waiting.deadline_s for waiting in self._heap if waiting.deadline_s), default=None)
