# SPDX-License-Identifier: Apache-2.0
"""One small real fleet for all tests that need one, and the command line as a person meets it."""

import hashlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from device_agent.client import InferenceClient, RawTensor
from edgefleet.cli.main import run, verbs
from fleet_emulation.demo.run import example_folder
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.processes import Program
from fleet_emulation.rehearsal import Rehearsal
from fleet_emulation.testbed import ServerReady, Testbed, module
from fleet_server.adapters.access.api_client import ApiClient
from fleet_server.adapters.access.home import Home

#: Ends a test that fails; a machine that does much else needs some of it for the start of a process.
LIMIT_S = 300.0
Told = tuple[int, str]


@pytest.fixture(scope="session", name="digits_example")
def _digits_example() -> Path:
    return example_folder()


@pytest.fixture(scope="session", name="rehearsal")
def _rehearsal(tmp_path_factory: pytest.TempPathFactory, digits_example: Path) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("rehearsal") / "fleet"
    with Rehearsal(folder, digits_example, agents=2, seed=1) as rehearsal:
        yield rehearsal


@pytest.fixture(scope="session", name="tell")
def _tell() -> Callable[..., Told]:
    """Run ``python -m MODULE ...`` as a person does; return its exit status and what it says on standard error."""

    def tell(module: str, *arguments: object, home: Path | None = None) -> Told:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **({"EDGEFLEET_HOME": str(home)} if home else {})},
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_S,
        )
        return done.returncode, done.stderr

    return tell


def hash_of(folder: Path) -> str:
    """Return one hash over all paths and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session", name="hash_of")
def _hash_of() -> Callable[[Path], str]:
    return hash_of


@pytest.fixture(scope="module", name="bed")
def _bed(rehearsal: Rehearsal) -> Testbed:
    return rehearsal.bed


class Said(NamedTuple):
    """How a command ended, and what it said on standard error."""

    status: int
    err: str


def run_edgefleet(*arguments: object) -> Said:
    """Run ``edgefleet`` through its front door, in this process."""
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        status = run([str(argument) for argument in arguments], verbs())
    return Said(status, err.getvalue())


@pytest.fixture(scope="session", name="edgefleet")
def _edgefleet() -> Callable[..., Said]:
    return run_edgefleet


@pytest.fixture(scope="session", name="sentence")
def _sentence() -> Callable[[str, str], str]:
    """What the command line says of an error: its message and its hint."""
    return lambda message, hint: f"error: {message}\nhint: {hint}\n"


@pytest.fixture(scope="session", name="frame_answer")
def _frame_answer(digits_example: Path) -> Callable[[Path], str]:
    """Return the status of one inference on an agent."""

    def answer(socket_path: Path) -> str:
        frame = next(iter(LiveStream(digits_example / "digits.npz", seed=0)))
        with InferenceClient(socket_path, timeout_s=LIMIT_S) as client:
            return client.infer(RawTensor(frame.pixels.tobytes(), str(frame.pixels.dtype), frame.pixels.shape)).status

    return answer


@pytest.fixture(name="silent_port")
def _silent_port() -> Iterator[int]:
    """A port of this machine on which nobody listens, nor can before the test ends."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


class OwnServer(NamedTuple):
    """A server of a test's own, without approvers."""

    data: Path
    home: Path
    program: Program

    def api(self) -> ApiClient:
        return ApiClient(Home(self.home).login())


@pytest.fixture(name="own_server")
def _own_server(tmp_path: Path) -> Iterator[Callable[..., OwnServer]]:
    """Make and start a server in a folder, and log its administrator in."""
    started: list[Program] = []

    def start(data: Path, *more: object) -> OwnServer:
        home = tmp_path / "admin"
        assert run_edgefleet("server", "init", "--data", data, "--tenant", "acme", "--admin-home", home).status == 0
        ports = ("--listen", "127.0.0.1:0", "--device-listen", "127.0.0.1:0")
        command = module("edgefleet.cli", "server", "run", "--data", data, *ports, *more)
        started.append(Program("the fleet server", command, log=tmp_path / "server.log"))
        api = started[0].ready(ServerReady).api
        assert run_edgefleet("login", "--server", api, "--token-file", home / "token", "--home", home).status == 0
        return OwnServer(data, home, started[0])

    yield start
    for program in started:
        program.stop()
