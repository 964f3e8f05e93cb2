# SPDX-License-Identifier: Apache-2.0
"""Both repositories through a child process, which is there only while there is something to ask.

An idle device keeps neither python-tuf nor an HTTP client in memory, and metadata that breaks its reader breaks no
supervisor. Where a look at the files that tell of news is enough (:mod:`device_agent.core.orders.agreement`), no child
is started. Checks and downloads have a child each, so that polls go on during a download. The calling threads must live
as long as the agent: the kernel ties the children's lives to them.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.verification.glance import Glance
from device_agent.adapters.verification.inbox import Inbox
from device_agent.control_channel import ControlChannel
from device_agent.core.orders.agreement import may_stand
from device_agent.core.orders.release_orders import Order, TargetFile
from device_agent.core.orders.repository_calls import (
    Agreed,
    Answer,
    Call,
    CheckBoth,
    Failed,
    FetchBundle,
    Fetched,
    error_of,
)
from edgefleet.contracts.errors import EdgeFleetError

#: A child that was asked nothing for so long ends: short against the time between two polls in the field.
LINGER_S = 15.0
#: Metadata is small: whoever takes longer to send it keeps the device from hearing of anything.
CHECK_LIMIT_S = 300.0
_LOOK_S = 0.5
_END_S = 5.0


class RepositoriesProcess:
    """The port ``Repositories``; one check and one download at a time."""

    def __init__(
        self,
        folder: DataFolder,
        *,
        reserve_bytes: int,
        linger_s: float = LINGER_S,
        check_limit_s: float = CHECK_LIMIT_S,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        arguments = (str(linger_s), str(reserve_bytes), str(folder.root))
        self._checks = _Child("the check of the repositories", arguments)
        self._fetches = _Child("the download", arguments)
        self._fetching = threading.Lock()
        self._check_limit_s = check_limit_s
        self._wall = wall
        self._monotonic = monotonic
        self._glance = Glance(folder)
        self._inbox = Inbox(folder.root)
        self._agreed: Agreed | None = None
        self._agreed_at = 0.0

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on.

        Raises:
            TrustRefusedError: the metadata or the order is refused, with a precise cause.
            UnreachableError: the server does not answer.
            EdgeFleetError: the child died, or took too long.
        """
        if self._agreed is not None and self._stands(self._agreed, seen_counter):
            return self._agreed.order
        self._agreed = None
        until = time.monotonic() + self._check_limit_s
        late = f"took longer than {self._check_limit_s:g} s"
        call = CheckBoth(seen_counter=seen_counter)
        answer = self._checks.ask(call, lambda: late if time.monotonic() >= until else "")
        assert isinstance(answer, Agreed)  # noqa: S101  the child's only other answers are errors
        self._agreed, self._agreed_at = answer, self._monotonic()
        return answer.order

    def _stands(self, agreed: Agreed, seen_counter: int) -> bool:
        """Tell whether a whole check would come to the same order; see :mod:`device_agent.core.orders.agreement`."""
        agreement = agreed.agreement
        if agreement is None or seen_counter > agreed.order.counter or self._inbox.present:
            return False
        age_s = self._monotonic() - self._agreed_at
        return may_stand(agreement, wall=self._wall(), age_s=age_s) and self._glance.unchanged(agreement.watched)

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:
        """Return a complete file with the target's length and hash.

        Raises:
            CorruptDownloadError: length or hash is wrong; the file was dropped.
            StorageError: the disk is full.
            UnreachableError: the server does not answer.
            EdgeFleetError: the child died, or the download was cancelled; it is resumed the next time.
        """
        with self._fetching:  # one that was cancelled may still be on its way out
            answer = self._fetches.ask(FetchBundle(target=target), lambda: "was cancelled" if cancelled() else "")
        assert isinstance(answer, Fetched)  # noqa: S101  the child's only other answers are errors
        return Path(answer.path)

    def reap(self) -> None:
        """Take note of children that went for want of calls."""
        for child in (self._checks, self._fetches):
            child.reap()

    def close(self) -> None:
        """End both children, whatever they are at; what they fetched stays to be resumed."""
        for child in (self._checks, self._fetches):
            child.close()


class _Child:
    """One process at a time, started when it is needed."""

    def __init__(self, what: str, arguments: tuple[str, ...]) -> None:
        self._what = what
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: ControlChannel | None = None
        self._closed = False

    def ask(self, call: Call, given_up: Callable[[], str]) -> Answer:
        """Return the child's answer, unless that is an error; ``given_up`` says why nobody waits for it any more.

        Raises:
            EdgeFleetError: what the child answered; or it died, or was given up.
        """
        answer = self._ask_present(call, given_up)
        if answer is None and not self._closed:  # none was there, or it went just when this call came
            self._start()
            answer = self._ask_present(call, given_up)
        if answer is None:
            raise _failure(f"{self._what} ended {_how(self._end())}")
        if isinstance(answer, Failed):
            raise error_of(answer)
        return answer

    def reap(self) -> None:
        """Take note of the child's end, so that the kernel forgets it."""
        if self._process is not None:
            self._process.poll()

    def close(self) -> None:
        """End the child, and start no other one; from any thread."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ask_present(self, call: Call, given_up: Callable[[], str]) -> Answer | None:
        if self._channel is None or not self._channel.send(call):
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel.socket, selectors.EVENT_READ)
            while True:
                if selector.select(_LOOK_S):
                    answers = self._channel.receive(Answer)
                    if answers or answers is None:
                        return answers[0] if answers else None
                elif why := given_up():
                    assert self._process is not None  # noqa: S101  it has a channel
                    self._process.kill()
                    self._end()
                    raise _failure(f"{self._what} {why}")

    def _start(self) -> None:
        self._end()
        mine, its = socket.socketpair()
        command = [sys.executable, "-m", "device_agent.repositories.main"]
        arguments = (str(its.fileno()), str(os.getpid()), *self._arguments)
        with its:
            self._process = subprocess.Popen(
                [*command, *arguments], pass_fds=(its.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._channel = ControlChannel(mine)

    def _end(self) -> int:
        """Let go of the child and return its exit status; 0 if there was none."""
        if self._channel is not None:
            self._channel.socket.close()
            self._channel = None
        if self._process is None:
            return 0
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._process = None


def _how(status: int) -> str:
    return f"by the signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _failure(message: str) -> EdgeFleetError:
    return EdgeFleetError(message, hint="the agent tries again by itself; see the agent's log")
