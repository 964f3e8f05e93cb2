# SPDX-License-Identifier: Apache-2.0
"""Child processes, forked from one that has imported everything: an update or an oracle starts in milliseconds."""

import multiprocessing
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from typing import IO, TypeVar

from edgefleet.contracts.errors import EdgeFleetError

_CHILDREN_AT_ONCE = 2

J = TypeVar("J")
A = TypeVar("A")


def fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a child and return its process id; the child ends with status 0, or 1 after an exception."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  it is told, and the status tells the parent
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """Return how a child ended: its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_child(work: Callable[[], None]) -> None:
    """Run ``work`` in a child to its end.

    Raises:
        EdgeFleetError: it failed; its traceback is on standard error.
    """
    status = wait(fork(work))
    if status != 0:
        raise EdgeFleetError(f"the child process ended with {status}", hint="see its traceback above")


def ask_child(work: Callable[[], A]) -> A:
    """Return what ``work`` returns in a child of its own (it is pickled).

    Raises:
        EdgeFleetError: it failed; its traceback is on standard error.
    """
    descriptor = os.memfd_create("answer")
    with os.fdopen(descriptor, "w+b") as said:
        run_child(lambda: _dump(work(), said))
        said.seek(0)
        answer: A = pickle.load(said)  # noqa: S301  our own child wrote it
        return answer


def map_children(ask: Callable[[J], A], jobs: Iterable[J]) -> Generator[A, None, None]:
    """Yield ``ask(job)`` for each job, in order, from a few children; what takes the jobs forks for what it runs.

    Closed early, it waits for what is under way.
    """
    first = list(islice(jobs := iter(jobs), 1))  # where a job takes a recording, no other thread is there yet
    room = threading.Semaphore(2 * _CHILDREN_AT_ONCE)
    ended = threading.Event()

    def fed() -> Iterator[J]:
        for job in chain(first, jobs):
            room.acquire()
            if ended.is_set():
                return
            yield job

    pool = multiprocessing.get_context("fork").Pool(_CHILDREN_AT_ONCE)
    try:
        for answer in pool.imap(ask, fed()):
            room.release()
            yield answer
    finally:
        ended.set()
        room.release()
        pool.close()
        pool.join()


def _dump(answer: object, said: IO[bytes]) -> None:
    pickle.dump(answer, said)
    said.flush()
