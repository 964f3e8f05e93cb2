# SPDX-License-Identifier: Apache-2.0
"""A testbed: a real server, broker and agents as programs on loopback, put up as people would, by the command line.

Demo, tests, campaigns and benchmarks all stand on this. ``folder`` holds everything that is written::

    homes/PERSON     keys and login of the administrator and of each approver
    server/          the server's data
    devices/NAME     an agent's data
    logs/            what each program says
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.settings import AgentSettings
from edgefleet.contracts.errors import EdgeFleetError, SettingError
from edgefleet.contracts.manifest import Fact
from fleet_emulation.broker import Broker, BrokerKind
from fleet_emulation.command import edgefleet, require
from fleet_emulation.listeners import Listener, listeners
from fleet_emulation.processes import Program
from fleet_server.adapters.access.api_client import ApiClient
from fleet_server.adapters.access.home import Home

TENANT = "demo"
PRODUCT = "digits"
PROFILE = "linux-x86_64"
APPROVERS = ("alice", "bob")
_ENROLMENTS_AT_ONCE = 2
_COMMANDS_AT_ONCE = 2
#: The longest path of a Unix socket (unix(7): 108 bytes with the zero at its end).
SOCKET_PATH_LIMIT_BYTES = 107


class ServerReady(Fact, frozen=True, kw_only=True):
    """The server's first line."""

    api: str
    device: str


class AgentReady(msgspec.Struct, frozen=True):
    """An agent's first line; further fields are of no interest here."""

    socket: str


@dataclass(frozen=True)
class RealAgent:
    """An agent that runs as a device runs it, in processes of its own."""

    device: str
    folder: Path
    program: Program
    socket: Path

    @property
    def files(self) -> DataFolder:
        """Where the agent's files lie."""
        return DataFolder(self.folder)


class Testbed:
    """A server, a broker and agents. ``examples`` is the digits example; periods are real seconds.

    ``time_scale`` divides the policy's durations; the agents' ``poll_s`` and ``telemetry_s`` come out as given.
    ``profile`` is what its devices are.
    """

    __test__ = False  # not a test, whatever its name begins with

    def __init__(
        self,
        folder: Path,
        examples: Path,
        *,
        time_scale: int,
        poll_s: float = 15.0,
        telemetry_s: float = 1.0,
        broker_kind: BrokerKind | None = None,
        profile: str = PROFILE,
    ) -> None:
        self.folder = folder
        self.profile = profile
        self.examples = examples
        self.time_scale = time_scale
        self.settings = AgentSettings(poll_s=poll_s * time_scale, telemetry_s=telemetry_s * time_scale)
        self.server_data = folder / "server"
        self.admin = folder / "homes" / "admin"
        self.logs = folder / "logs"
        self.broker: Broker | None = None
        self._broker_kind = broker_kind
        self.server: Program | None = None
        self.agents: list[RealAgent] = []
        self.api_url = ""
        self.device_url = ""

    def home(self, person: str) -> Path:
        """Return a person's own folder; nobody else's commands see it."""
        return self.folder / "homes" / person

    @cached_property
    def api(self) -> ApiClient:
        """The management API with the administrator's login."""
        return ApiClient(Home(self.admin).login())

    @property
    def broker_port(self) -> int:
        """The port of the broker on 127.0.0.1."""
        assert self.broker is not None  # noqa: S101  # set_up_server starts it
        return self.broker.port

    @property
    def database(self) -> Path:
        """The server's database file."""
        return self.server_data / "fleet.db"

    def set_up_server(self) -> None:
        """Hold the key ceremony, start broker and server, and let everybody log in.

        Raises:
            SettingError: the folder's path is too long for the agents' sockets.
            EdgeFleetError: a command failed, or a program did not start.
        """
        _check_depth(self.folder)
        init = ("server", "init", "--data", self.server_data, "--tenant", TENANT, "--admin-home", self.admin)
        with ThreadPoolExecutor(_COMMANDS_AT_ONCE) as desk:
            ceremony = [desk.submit(lambda: require(edgefleet(*init)))]
            ceremony += [desk.submit(self._make_key, person) for person in APPROVERS]
            # Programs end with the thread that started them, so that is this one.
            self.broker = Broker(self.folder / "broker", kind=self._broker_kind)
            for step in ceremony:
                step.result()
        self.delegate(PRODUCT)
        self.start_server()
        self._log_in("admin", self.admin / "token")
        with ThreadPoolExecutor(_COMMANDS_AT_ONCE) as desk:
            list(desk.map(self._give_token, APPROVERS))

    def start_server(self) -> None:
        """Start the server; a second start (after a stop or a kill) listens on the same ports."""
        assert self.broker is not None  # noqa: S101  # set_up_server starts it first
        addresses = [url.partition("//")[2] or "127.0.0.1:0" for url in (self.api_url, self.device_url)]
        command = module("edgefleet.cli", "server", "run", "--data", self.server_data, "--broker", self.broker.url)
        command += ["--listen", addresses[0], "--device-listen", addresses[1], "--time-scale", str(self.time_scale)]
        self.server = Program("the fleet server", [*command, "--json"], log=self.logs / "server.log")
        ready = self.server.ready(ServerReady)
        self.api_url, self.device_url = ready.api, ready.device

    def stop_server(self) -> None:
        """Stop the server, as for a repair; devices go on with what they run."""
        if self.server is not None:
            self.server.stop()

    def kill_server(self) -> None:
        """End the server by SIGKILL, as a crash does."""
        assert self.server is not None  # noqa: S101  # set_up_server starts it
        self.server.kill()
        self.server.stop()

    def convert(
        self, version: str, model: str, samples: Path, *, product: str = PRODUCT, recipe: str | None = None
    ) -> Path:
        """Convert one of the example's float models, calibrated with an .npz or by a recipe; return the bundle."""
        out = self.folder / "bundles"
        how = ("--recipe", self.examples / recipe) if recipe else ("--calibration", samples)
        given = (*how, "--acceptance", self.examples / "acceptance.npz", "--out", out)
        named = ("--profile", self.profile, "--name", product, "--version", version)
        require(edgefleet("convert", self.examples / model, *named, *given))
        return out / f"{product}-{version}-{self.profile}.bundle"

    def delegate(self, product: str) -> None:
        """Let the approvers release a product together."""
        approvers = [self.home(person) / "keys" / f"{person}.pub.json" for person in APPROVERS]
        given = [word for path in approvers for word in ("--approver", path)]
        delegate = ("keys", "delegate", product, "--data", self.server_data, *given, "--threshold", len(APPROVERS))
        require(edgefleet(*map(str, delegate), home=self.admin))

    def release(self, version: str, bundle: Path, policy: Path, *, product: str = PRODUCT) -> None:
        """Publish a bundle, and let every approver verify and sign it."""
        require(edgefleet("releases", "publish", bundle, "--policy", policy, home=self.admin))
        for person in APPROVERS:
            home = self.home(person)
            key = ("--key", person, "--passphrase-file", home / "passphrase", "--yes")
            require(edgefleet("releases", "approve", product, version, *key, home=home))

    def invite(self, devices: Sequence[str]) -> list[Path]:
        """Invite devices, and return their tickets."""
        folder = self.folder / "tickets"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = []
        for device in devices:
            ticket = self.api.post("devices", {"name": device, "profile": self.profile})
            paths.append(folder / f"{device}.json")
            write_secret(paths[-1], msgspec.json.encode(ticket).decode())
        return paths

    def start_agents(self, devices: Sequence[str]) -> None:
        """Invite, enrol and start agents."""
        self.enrol_and_start(devices, self.invite(devices))

    def start_agent(self, device: str, ticket: Path) -> RealAgent:
        """Enrol one agent with its ticket, start it, and return it."""
        self.enrol_and_start([device], [ticket])
        return self.agents[-1]

    def enrol_and_start(self, devices: Sequence[str], tickets: Sequence[Path]) -> None:
        """Enrol agents with their tickets, and start them side by side.

        Raises:
            EdgeFleetError: one could not enrol, or did not start.
        """
        with ThreadPoolExecutor(_ENROLMENTS_AT_ONCE) as pool:
            list(pool.map(self._enrol, devices, tickets))
        # Programs end with the thread that started them, so that is this one.
        started = [(device, self._start_program(device)) for device in devices]
        self.agents += [self._ready(device, program) for device, program in started]

    def _enrol(self, device: str, ticket: Path) -> None:
        folder = self.folder / "devices" / device
        enrol = module("device_agent", "enrol", "--ticket", ticket, "--data", folder)
        enrolled = subprocess.run(enrol, capture_output=True, text=True, check=False)
        if enrolled.returncode != 0:
            raise EdgeFleetError(f"{device} could not enrol: {enrolled.stderr.strip()}", hint="see the server's log")
        settings = self.settings
        (folder / "agent.toml").write_text(f"poll_s = {settings.poll_s}\ntelemetry_s = {settings.telemetry_s}\n")

    def run_agent(self, device: str) -> RealAgent:
        """Start one enrolled agent and wait until it listens for applications."""
        return self._ready(device, self._start_program(device))

    def _start_program(self, device: str) -> Program:
        return Program(device, self.agent_command(device), log=self.logs / f"{device}.log")

    def _ready(self, device: str, program: Program) -> RealAgent:
        ready = program.ready(AgentReady)
        return RealAgent(device, self.folder / "devices" / device, program, Path(ready.socket))

    def agent_command(self, device: str) -> list[str]:
        """Return the command that runs an enrolled agent."""
        folder = self.folder / "devices" / device
        command = module("device_agent", "run", "--data", folder, "--config", folder / "agent.toml")
        return [*command, "--time-scale", str(self.time_scale)]

    def restart_agent(self, number: int) -> RealAgent:
        """Start an agent again that was stopped or killed, as the system's service manager does."""
        before = self.agents[number]
        before.program.stop()
        self.agents[number] = self.run_agent(before.device)
        return self.agents[number]

    def programs(self) -> list[Program]:
        """Return the programs that were started, agents first."""
        found = [agent.program for agent in self.agents]
        found += [self.server] if self.server else []
        return found + ([self.broker.program] if self.broker else [])

    def sockets(self) -> list[tuple[str, Listener]]:
        """Return each program's name with the TCP sockets that it listens on, as the kernel says it."""
        return [(program.name, found) for program in self.programs() for found in listeners([program.pid])]

    def stop(self) -> None:
        """Stop everything, devices first."""
        for agent in self.agents:
            agent.program.stop()
        if "api" in self.__dict__:  # only if it was used
            self.api.__exit__(None, None, None)
        self.stop_server()
        if self.broker is not None:
            self.broker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_key(self, person: str) -> None:
        home = self.home(person)
        write_secret(home / "passphrase", f"{person}'s passphrase")
        require(edgefleet("keys", "create", person, "--passphrase-file", home / "passphrase", home=home))

    def _give_token(self, person: str) -> None:
        token = self.home(person) / "token"
        require(edgefleet("server", "token", person, "--role", "approver", "--output", token, home=self.admin))
        self._log_in(person, token)

    def _log_in(self, person: str, token: Path) -> None:
        root = ("--root", self.admin / "root.json") if (self.admin / "root.json").exists() else ()
        command = ("login", "--server", self.api_url, "--token-file", token, *root)
        require(edgefleet(*command, home=self.home(person)))


def _check_depth(folder: Path) -> None:
    """Refuse a folder in which an agent could not make its socket, before anything is started."""
    limit_bytes = SOCKET_PATH_LIMIT_BYTES - len("/devices/agent-00/inference.sock")
    if len(os.fsencode(folder)) > limit_bytes:
        raise SettingError(
            f"the path '{folder}' is longer than {limit_bytes} bytes, which leaves no room for the agents' sockets",
            hint="choose a folder nearer to the root (TMPDIR or --keep)",
        )


def module(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", name, *(str(argument) for argument in arguments)]


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(text)
