# SPDX-License-Identifier: Apache-2.0
"""Threads that share one stream of work. The interpreter lets others run meanwhile, so two cores take half the time."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_WORKERS = 4


def worker_count() -> int:
    """Return how many threads can compute at the same time here, four at most."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))


def share(items: Iterator[Item], workers: Sequence[Callable[[Item], Result]]) -> list[Result]:
    """Give each item to whichever worker is free, and return the results in the order of the items.

    Items are drawn one at a time, by the thread that needs one. The first error, of the items or of a worker, ends the
    work and is raised.
    """
    stream = _Stream(items)
    with ThreadPoolExecutor(len(workers)) as pool:
        pending = [pool.submit(stream.feed, worker) for worker in workers]
        done = [found for future in pending for found in future.result()]
    return [result for _, result in sorted(done, key=lambda numbered: numbered[0])]


class _Stream(Generic[Item]):
    """Numbered items behind a lock, until one of them, or a worker, fails."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = enumerate(items)
        self._lock = threading.Lock()
        self._broken = False

    def feed(self, worker: Callable[[Item], Result]) -> list[tuple[int, Result]]:
        """Hand items to a worker as long as there are any."""
        results = []
        try:
            while (numbered := self._next()) is not None:
                results.append((numbered[0], worker(numbered[1])))
        except BaseException:
            self._broken = True
            raise
        return results

    def _next(self) -> tuple[int, Item] | None:
        with self._lock:
            return None if self._broken else next(self._items, None)
