# SPDX-License-Identifier: Apache-2.0
"""One device for campaigns: ``edgefleet-agent run`` in processes of its own, its server over HTTPS, its application."""

import contextlib
import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.zoo_device import DIGITS, Made
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.storage.state_file import read_record
from device_agent.client import InferenceClient
from device_agent.core.life.record import DeviceRecord
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import Event, Message, RunningRelease, decode_message
from edgefleet.contracts.policy import DevicePolicy
from fleet_emulation.hostile_server.site import HostileSite
from fleet_emulation.processes import Program
from fleet_emulation.testbed import AgentReady, module

T = TypeVar("T")
Array = npt.NDArray[Any]
BLANK = np.zeros((1, 8, 8, 1), np.float32)
_WORKER = b"device_agent.worker.main"
_PERIOD_S = 0.005
_ANSWER_LIMIT_S = 120.0
_LOOK_S = 0.002
_LIMIT_S = 120.0
_STORED = "SELECT coalesce(extension.data, message.data) FROM message LEFT JOIN extension USING (sequence)"


class Answered(NamedTuple):
    """One request of the application: when it was asked and answered (Unix seconds), with what, by which release."""

    asked_at: float
    answered_at: float
    status: str
    release: str


class Told(NamedTuple):
    """An event of the agent, and when it was told (Unix seconds)."""

    at: float
    event: Event


class Application:
    """Asks every 5 ms until it is stopped; what it asks after :meth:`show_blank` is a blank frame, once."""

    def __init__(self, socket: Path) -> None:
        self.answers: list[Answered] = []
        self.unanswered = 0
        self._socket = socket
        self._blank = False
        self._blank_at: float | None = None
        self._running = True
        self._pictures = np.load(DIGITS / "digits.npz")["live_x"].astype(np.float32)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show_blank(self) -> float:
        """Ask about a blank frame next, and return when that was asked."""
        self._blank_at = None
        self._blank = True
        return wait_for(lambda: self._blank_at, "the application to ask")

    def answered_by(self, release: str, since: float) -> Answered | None:
        """Return the first answer that a release gave at some moment or later."""
        found: Answered | None = None
        for answer in reversed(self.answers[:]):
            if answer.answered_at < since:
                break
            if answer.status == "ok" and answer.release == release:
                found = answer
        return found

    def tally(self) -> dict[str, int]:
        """Return what became of all requests since the first that was answered with ``ok``."""
        answers = list(dropwhile(lambda answer: answer.status != "ok", self.answers[:]))
        ok = sum(answer.status == "ok" for answer in answers)
        return {"requests": len(answers) + self.unanswered, "not_ok": len(answers) - ok, "unanswered": self.unanswered}

    def stop(self) -> None:
        """Ask no more."""
        self._running = False
        self._thread.join()

    def _run(self) -> None:
        with InferenceClient(self._socket, timeout_s=_ANSWER_LIMIT_S) as client:
            number = 0
            while self._running:
                number += 1
                started = time.monotonic()
                self._ask(client, self._pictures[number % len(self._pictures)][np.newaxis])
                time.sleep(max(started + _PERIOD_S - time.monotonic(), 0.0))

    def _ask(self, client: InferenceClient, picture: Array) -> None:
        blank, self._blank = self._blank, False
        asked_at = time.time()
        if blank:
            picture, self._blank_at = BLANK, asked_at
        try:
            answer = client.infer(picture)
        except EdgeFleetError:
            self.unanswered += 1
            return
        self.answers.append(Answered(asked_at, time.time(), answer.status, answer.release))


class LiveDevice:
    """A device and its server; :meth:`start` it with settings and a time scale, as often as needed, one at a time."""

    def __init__(self, folder: Path, first: Made) -> None:
        self._folder = folder
        self._bundles = folder / "bundles"
        self._bundles.mkdir(parents=True)
        self.files = DataFolder(folder / "device")
        bundle = self._bundle(first)
        self.site = HostileSite(folder / "site", [bundle, bundle])
        self._runs = 0

    def __enter__(self) -> "LiveDevice":
        self.site.__enter__()
        self.site.enrol(self.files)
        return self

    def __exit__(self, *_: object) -> None:
        self.site.__exit__()

    @contextlib.contextmanager
    def agent(self, settings: str, *, time_scale: float = 1.0) -> Iterator["LiveAgent"]:
        """Run the agent with some settings (TOML), and an application that asks it all the time."""
        self._runs += 1
        config, log = self._folder / f"agent-{self._runs}.toml", self._folder / f"agent-{self._runs}.log"
        config.write_text(settings)
        command = module("device_agent", "run", "--data", self.files.root, "--config", config)
        with Program("the agent", [*command, "--time-scale", str(time_scale)], log=log) as program:
            application = Application(Path(program.ready(AgentReady).socket))
            try:
                yield LiveAgent(program, self.files, application)
            finally:
                application.stop()

    def order(self, made: Made, policy: DevicePolicy | None = None) -> None:
        """Release a bundle, and order it; without a policy it is committed at once."""
        bundle = self._bundle(made)
        self.site.order(bundle) if policy is None else self.site.order(bundle, policy)
        bundle.path.unlink()

    def _bundle(self, made: Made) -> Bundle:
        path = self._bundles / f"{made.release.bundle_sha256}.bundle"
        path.write_bytes(made.data)
        return open_bundle(path)


class LiveAgent:
    """The running agent, its files, and its application."""

    def __init__(self, program: Program, files: DataFolder, application: Application) -> None:
        self.program = program
        self.files = files
        self.application = application

    def workers(self) -> list[int]:
        """Return the process ids of the agent's inference workers.

        ``/proc/PID/task/PID/children`` would be shorter, and leaves one out when another one ends meanwhile (proc(5)).
        """
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.program.pid and _WORKER in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def wait_for_answer(self, release: str, since: float = 0.0) -> Answered:
        """Wait until the application has an answer of a release since some moment, and return the first."""
        return wait_for(lambda: self.application.answered_by(release, since), f"an answer by {release}", self.program)

    def wait_until_committed(self, made: Made) -> None:
        """Wait until a release is the good one, and nothing is under way."""
        wait_for(lambda: self._rests_with(made.release), f"the commit of {made.release.version}", self.program)

    def _rests_with(self, release: RunningRelease) -> bool:
        record = self.record
        return (record.status, [member.release for member in record.active]) == ("idle", [release])

    @property
    def record(self) -> DeviceRecord:
        """What the agent has written down of itself."""
        return read_record(self.files.state) or DeviceRecord()

    def log(self) -> "Log":
        """Return the agent's log from here on."""
        return Log(self.program)

    def told(self, since: float = 0.0) -> list[Told]:
        """Return the events in the agent's outbox since some moment, in order."""
        where = f"file:{self.files.outbox.resolve()}?mode=ro"
        with contextlib.closing(sqlite3.connect(where, uri=True, timeout=10.0)) as outbox:
            messages = [decode_message(row[0], Message) for row in outbox.execute(f"{_STORED} ORDER BY sequence")]
        events = [Told(m.created_at, m.body) for m in messages if isinstance(m.body, Event)]
        return [told for told in events if told.at >= since]


class Log:
    """What a program says from now on."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._from = program.log.stat().st_size

    def wait_for(self, words: str) -> None:
        """Wait until the program has said some words."""
        wait_for(lambda: words in self.text(), f"'{words}'", self._program)

    def text(self) -> str:
        """Return what it has said."""
        with self._program.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")


class Deaths:
    """Waits for the end of the first of some processes, as the kernel tells it."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._descriptors = [os.pidfd_open(pid) for pid in pids]

    def wait(self) -> float:
        """Return when the first one ended (Unix seconds)."""
        ended, _, _ = select.select(self._descriptors, [], [], _LIMIT_S)
        at = time.time()
        if not ended:
            raise EdgeFleetError("no worker ended", hint="see the agent's log")
        return at

    def close(self) -> None:
        """Watch no more."""
        for descriptor in self._descriptors:
            os.close(descriptor)


def wait_for(look: Callable[[], T | None], what: str, program: Program | None = None) -> T:
    """Look again and again until there is something to see, and return it.

    Raises:
        EdgeFleetError: there is nothing in time; the message ends with the program's last words.
    """
    until = time.monotonic() + _LIMIT_S
    while time.monotonic() < until:
        seen = look()
        if seen:
            return seen
        time.sleep(_LOOK_S)
    said = program.last_words() if program else ""
    raise EdgeFleetError(f"waited {_LIMIT_S:.0f} s for {what}: {said}", hint="see the agent's log")
