# SPDX-License-Identifier: Apache-2.0
"""The real agent in one process, on one thread, without a network: the same system calls in the same order each time.

Only its surroundings are stood in for: the children of an agent live in this process, a broker that takes everything
keeps what it was told as promises, and time passes when the agent waits.
"""

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.verification.download import BundleDownloads
from device_agent.adapters.verification.trust import TufTrust
from device_agent.admission.checks import InProcessAdmission
from device_agent.core.orders.release_orders import Order, TargetFile
from device_agent.settings import AgentSettings
from device_agent.wiring import assemble
from device_agent.worker.engine import Engine, Reply
from device_agent.worker.in_process import InProcessInference
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import Hint, Message, State, Watermark
from fleet_emulation.live_stream import Frame
from fleet_emulation.power_loss.server_folder import FolderConnection

#: Of what was sent, the last so many are not stored by the server yet.
_NOT_STORED = 5
_SETTINGS = AgentSettings(reserve_bytes=0, compare_share=1.0)
_SEED = 1


class Promise(Fact, frozen=True, kw_only=True):
    """One line about what the world was told: a message that was sent, a state, or what the server has stored."""

    sent: Message | None = None
    state: State | None = None
    stored: Natural = 0


class DirectExecutor(Executor):
    """Runs everything at once, on the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn`` now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  a future carries whatever its work raised
            future.set_exception(error)
        return future


class PassingClock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._wall = time.time()

    def wall(self) -> float:
        """Return Unix seconds."""
        return self._wall + self._now

    def monotonic(self) -> float:
        """Return seconds."""
        return self._now

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class AttentiveBroker:
    """A messenger with a server behind it that stores what it gets, a little later; all of it is promised."""

    def __init__(self, promises: Path | None) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self.connection = 1
        self.takeovers = 0
        self.sent: list[Message] = []
        self._file = None if promises is None else os.open(promises, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._incoming: deque[Watermark | Hint] = deque()

    def incoming(self) -> list[Watermark | Hint]:
        """Return what came."""
        taken = list(self._incoming)
        self._incoming.clear()
        return taken

    def send(self, message: Message) -> None:
        """Take a message; the server stores the ones before the last few."""
        self.sent.append(message)
        self._promise(Promise(sent=message))
        stored = message.sequence - _NOT_STORED
        if stored > 0:
            self._promise(Promise(stored=stored))
            self._incoming.append(Watermark(v=1, epoch=message.epoch, sequence=stored))

    def announce(self, state: State) -> None:
        """Take the retained state."""
        self._promise(Promise(state=state))

    def close(self, farewell: State | None) -> None:
        """Hear that the device goes."""
        del farewell  # that it is offline is no promise
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _promise(self, promise: Promise) -> None:
        if self._file is not None:
            os.write(self._file, msgspec.json.encode(promise) + b"\n")


class FolderRepositories:
    """The port ``Repositories`` over a server's folder."""

    def __init__(self, folder: DataFolder, connection: FolderConnection) -> None:
        self._trust = TufTrust(folder, folder.read_identity(), connection)
        self._downloads = BundleDownloads(folder.downloads, connection, reserve_bytes=0)

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on."""
        return self._trust.check(seen_counter)

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:
        """Return a complete file."""
        return self._downloads.fetch(target, cancelled)


class OneDevice:
    """An agent over a data folder, with ``server`` in reach, or (None) out of reach of any."""

    def __init__(
        self, root: Path, frames: Iterator[Frame], *, server: Path | None = None, promises: Path | None = None
    ) -> None:
        folder = DataFolder(root)
        folder.mend()  # the first thing that the agent's process does
        self._connection = FolderConnection(server, ca=folder.ca, certificate=folder.certificate, key=folder.key)
        chance = random.Random(_SEED)
        self.clock = PassingClock()
        self.broker = AttentiveBroker(promises)
        self.engine = Engine(random=chance.random, nonce=chance.getrandbits(32))
        self._frames = frames
        self.agent = assemble(
            folder,
            _SETTINGS,
            inference=InProcessInference(self.engine),
            repositories=FolderRepositories(folder, self._connection),
            admission=InProcessAdmission(),
            executor=DirectExecutor(),
            messenger=self.broker,
            clock=self.clock,
            random_share=chance.random,
        )
        self.agent.start()

    def reach(self, server: Path) -> None:
        """Come into reach of a server, which sends a hint."""
        self._connection.server = server
        self.agent.polling.soon()

    def infer(self) -> Reply:
        """Ask for one answer, as an application does."""
        reply = self.engine.infer([next(self._frames).pixels])
        self.engine.settle()
        return reply

    def run(self, done: Callable[[], bool], *, ticks: int) -> bool:
        """Let the agent work, with one request a tick, until something is so; false if it is not, after so many."""
        for _ in range(ticks):
            wait_s = self.agent.tick()
            if done():
                return True
            self.infer()
            self.clock.pass_by(max(wait_s, 0.01))
        return False
