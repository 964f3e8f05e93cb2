# SPDX-License-Identifier: Apache-2.0
"""The real server and the real agent of before, each with today's other side: orders, messages and watermarks pass."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

#: The last commit before messages, the agent's record and the server's database were changed for the first time.
SCHEMA_1 = "fe9840e"
FRONT_DOOR = ("-c", "from edgefleet.cli.main import main; main()")
WAIT_S = 300.0


class Code:
    """Programs of one age."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        added = {} if folder is None else {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self._environment = dict(os.environ) | added

    def start(self, arguments: Sequence[object], log: Path) -> subprocess.Popen[str]:
        command = [sys.executable, *map(str, arguments)]
        with log.open("a") as stream:
            return subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, stderr=stream, text=True
            )

    def run(self, *arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        ran = subprocess.run(command, cwd=self._folder, env=self._environment, capture_output=True, text=True)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout

    @contextlib.contextmanager
    def running(self, arguments: Sequence[object], log: Path) -> Iterator[dict[str, str]]:
        """Run a program that says in one line of JSON where it listens; it is stopped cleanly at the end."""
        process = self.start(arguments, log)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)
            process.terminate()
            assert process.wait(WAIT_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture(name="then")
def _then(older_code: Callable[[str], Path]) -> Code:
    return Code(older_code(SCHEMA_1))


class Site:
    """A server's data, an administrator, and a device's folder."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self.broker = broker
        self.data, self.admin, self.device = folder / "srv", folder / "admin", folder / "d1"
        self.address = ""

    def init(self, code: Code) -> None:
        code.run(*FRONT_DOOR, "server", "init", "--data", self.data, "--tenant", "acme", "--admin-home", self.admin)

    @contextlib.contextmanager
    def server(self, code: Code, port: int) -> Iterator[None]:
        where = ("--listen", "127.0.0.1:0", "--device-listen", f"127.0.0.1:{port}", "--broker", self.broker)
        run = (*FRONT_DOOR, "server", "run", "--data", self.data, *where, "--json")
        with code.running(run, self.folder / "server.log") as ready:
            token = self.admin / "token"
            code.run(*FRONT_DOOR, "login", "--server", ready["api"], "--token-file", token, "--home", self.admin)
            yield

    def enrol(self, server: Code, agent: Code) -> None:
        ticket = self.folder / "ticket.json"
        invited = ("devices", "invite", "d1", "--profile", "linux-x86_64", "--output", ticket, "--home", self.admin)
        server.run(*FRONT_DOOR, *invited)
        agent.run("-m", "device_agent", "enrol", "--ticket", ticket, "--data", self.device)

    @contextlib.contextmanager
    def agent(self, code: Code) -> Iterator[None]:
        run = ("-m", "device_agent", "run", "--data", self.device, "--poll", "0.5")
        with code.running(run, self.folder / "agent.log"):
            yield

    def stored(self) -> dict[int, str]:
        """What the server has of the device: the kinds of events by number; they are all of one epoch."""
        return {number: kind for _, number, kind in self._stored()}

    def epochs(self) -> set[str]:
        return {epoch for epoch, _, _ in self._stored()}

    def _stored(self) -> list[tuple[str, int, str]]:
        (path,) = self.data.glob("*.db")
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=WAIT_S)) as database:
            rows = database.execute("SELECT epoch, sequence, body FROM message WHERE device = 'd1'").fetchall()
        return [(epoch, number, json.loads(data).get("kind", "-")) for epoch, number, data in rows]

    def sent(self) -> int:
        """The number of the device's last message."""
        return self.outbox("SELECT last_sequence FROM outbox")

    def outbox(self, query: str) -> int:
        """A number from the device's outbox."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.device}/outbox.db?mode=ro", uri=True, timeout=WAIT_S)
        ) as box:
            return int(box.execute(query).fetchone()[0])

    def caught_up(self) -> bool:
        return 0 < self.sent() == max(self.stored(), default=0)


@pytest.fixture(name="site")
def _site(tmp_path: Path, new_broker: Any) -> Site:
    return Site(tmp_path, new_broker().url)


def count(found: dict[int, str], kind: str) -> int:
    return list(found.values()).count(kind)


@pytest.mark.slow
def test_a_server_that_is_updated_under_its_devices_loses_nothing_of_either_age(
    site: Site, then: Code, free_port: int, wait_for: Any
) -> None:
    now = Code()
    site.init(then)
    with site.server(then, free_port):
        site.enrol(then, now)  # today's agent, and the server of before
        with site.agent(now):
            wait_for(site.caught_up, "its messages at the older server", WAIT_S)
        with site.agent(then):  # the same device, taken over by the agent of before
            wait_for(lambda: count(site.stored(), "agent-started") == 2, "the older agent's messages", WAIT_S)
    before = site.stored()

    with site.server(now, free_port):
        assert site.stored() == before
        with site.agent(then):  # the agent of before, and today's server
            wait_for(lambda: count(site.stored(), "agent-started") == 3, "the older agent at this server", WAIT_S)
        with site.agent(now):
            wait_for(lambda: count(site.stored(), "agent-started") == 4, "this agent at this server", WAIT_S)
            wait_for(site.caught_up, "all its messages", WAIT_S)
    after = site.stored()
    assert {number: after[number] for number in before} == before
    assert sorted(after) == list(range(1, max(after) + 1))
    assert len(site.epochs()) == 1
    assert not set(after.values()) & {"update-refused", "state-repaired"}


@pytest.mark.slow
def test_an_agent_of_before_enrols_at_this_server(site: Site, then: Code, free_port: int, wait_for: Any) -> None:
    now = Code()
    site.init(now)
    with site.server(now, free_port):
        site.enrol(now, then)
        with site.agent(then):
            wait_for(site.caught_up, "its messages at this server", WAIT_S)
            wait_for(lambda: site.outbox("SELECT count(*) FROM message") == 0, "the watermark at the device", WAIT_S)
    assert count(site.stored(), "agent-started") == 1
