# SPDX-License-Identifier: Apache-2.0
"""The stage: server, broker, four agents and the simulated fleet as real programs, all on loopback."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from device_agent.settings import AgentSettings
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import Fact
from fleet_emulation.broker import Broker
from fleet_emulation.command import edgefleet, require
from fleet_emulation.demo.report import ListenerReport
from fleet_emulation.listeners import listeners
from fleet_emulation.processes import Program
from fleet_emulation.simulated_fleet import SimulationConfig, SimulationReady, SimulationTotals
from fleet_server.adapters.api_client import ApiClient
from fleet_server.adapters.home import Home

TENANT = "demo"
PRODUCT = "digits"
PROFILE = "linux-x86_64"
APPROVERS = ("alice", "bob")
AGENTS = ("agent-1", "agent-2", "agent-3", "agent-4")
#: The policy's production hours become seconds; the policy file itself is not touched.
TIME_SCALE = 4800
_POLL_S = 15.0
_TELEMETRY_S = 1.0
_SIMULATED_RATE = 35.0


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


class Stage:
    """Everything that runs during the demo. ``folder`` holds all of it; ``examples`` is the digits example."""

    def __init__(self, folder: Path, examples: Path, *, seed: int, simulated: int) -> None:
        self.folder = folder
        self.examples = examples
        self.seed = seed
        self.simulated = simulated
        self.server_data = folder / "server"
        self.admin = folder / "homes" / "admin"
        self.logs = folder / "logs"
        self.broker: Broker | None = None
        self.server: Program | None = None
        self.agents: list[RealAgent] = []
        self.simulation: Program | None = None
        self.totals = SimulationTotals(served=0, failed=0)
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

    def set_up_server(self) -> None:
        """Hold the key ceremony, start broker and server, and let everybody log in."""
        for person in APPROVERS:
            home = self.home(person)
            _write_secret(home / "passphrase", f"{person}'s passphrase {self.seed}")
            require(edgefleet("keys", "create", person, "--passphrase-file", home / "passphrase", home=home))
        init = ("server", "init", "--data", self.server_data, "--tenant", TENANT, "--admin-home", self.admin)
        require(edgefleet(*init))
        approvers = [self.home(person) / "keys" / f"{person}.pub.json" for person in APPROVERS]
        given = [word for path in approvers for word in ("--approver", path)]
        delegate = ("keys", "delegate", PRODUCT, "--data", self.server_data, *given, "--threshold", "2")
        require(edgefleet(*delegate, home=self.admin))
        self.broker = Broker(self.folder / "broker")
        self.start_server()
        self._log_in("admin", self.admin / "token")
        for person in APPROVERS:
            token = self.home(person) / "token"
            made = ("server", "token", person, "--role", "approver", "--output", token)
            require(edgefleet(*made, home=self.admin))
            self._log_in(person, token)

    def start_server(self) -> None:
        """Start the server; a second start (after a stop) listens on the same ports."""
        assert self.broker is not None  # noqa: S101  # set_up_server starts it first
        addresses = [url.partition("//")[2] or "127.0.0.1:0" for url in (self.api_url, self.device_url)]
        command = _module("edgefleet.cli", "server", "run", "--data", self.server_data, "--broker", self.broker.url)
        command += ["--listen", addresses[0], "--device-listen", addresses[1], "--time-scale", str(TIME_SCALE)]
        self.server = Program("the fleet server", [*command, "--json"], log=self.logs / "server.log")
        ready = self.server.ready(ServerReady)
        self.api_url, self.device_url = ready.api, ready.device

    def stop_server(self) -> None:
        """Stop the server, as for a repair; devices go on with what they run."""
        if self.server is not None:
            self.server.stop()

    def _log_in(self, person: str, token: Path) -> None:
        root = ("--root", self.admin / "root.json") if (self.admin / "root.json").exists() else ()
        command = ("login", "--server", self.api_url, "--token-file", token, *root)
        require(edgefleet(*command, home=self.home(person)))

    def start_devices(self) -> None:
        """Invite and enrol everybody; start four agents and the simulation."""
        simulated = [f"sim-{number:02d}" for number in range(1, self.simulated + 1)]
        tickets = self._invite([*AGENTS, *simulated])
        self.simulation = self._start_simulation(tickets[len(AGENTS) :])
        for device, ticket in zip(AGENTS, tickets, strict=False):
            self.agents.append(self._start_agent(device, ticket))
        self.simulation.ready(SimulationReady)

    def _invite(self, devices: Sequence[str]) -> list[Path]:
        folder = self.folder / "tickets"
        folder.mkdir(mode=0o700)
        paths = []
        for device in devices:
            ticket = self.api.post("devices", {"name": device, "profile": PROFILE})
            paths.append(folder / f"{device}.json")
            _write_secret(paths[-1], msgspec.json.encode(ticket).decode())
        return paths

    def _settings(self) -> AgentSettings:
        """Return settings whose periods come out as a few seconds; the agent divides them by the time scale."""
        return AgentSettings(poll_s=_POLL_S * TIME_SCALE, telemetry_s=_TELEMETRY_S * TIME_SCALE)

    def _start_agent(self, device: str, ticket: Path) -> RealAgent:
        folder = self.folder / "devices" / device
        enrolled = subprocess.run(
            _module("device_agent", "enrol", "--ticket", ticket, "--data", folder),
            capture_output=True,
            text=True,
            check=False,
        )
        if enrolled.returncode != 0:
            raise EdgeFleetError(f"{device} could not enrol: {enrolled.stderr.strip()}", hint="see the server's log")
        config = folder / "agent.toml"
        settings = self._settings()
        config.write_text(f"poll_s = {settings.poll_s}\ntelemetry_s = {settings.telemetry_s}\n")
        return self.run_agent(device, folder)

    def run_agent(self, device: str, folder: Path) -> RealAgent:
        """Start one enrolled agent and wait until it listens for applications."""
        command = _module("device_agent", "run", "--data", folder, "--config", folder / "agent.toml")
        program = Program(device, [*command, "--time-scale", str(TIME_SCALE)], log=self.logs / f"{device}.log")
        ready = program.ready(AgentReady)
        return RealAgent(device, folder, program, Path(ready.socket))

    def _start_simulation(self, tickets: Sequence[Path]) -> Program:
        config = SimulationConfig(
            tickets=tuple(map(str, tickets)),
            folder=str(self.folder / "devices"),
            digits=str(self.examples / "digits.npz"),
            seed=self.seed,
            requests_per_s=_SIMULATED_RATE,
            time_scale=TIME_SCALE,
            settings=self._settings(),
        )
        path = self.folder / "simulation.json"
        path.write_bytes(msgspec.json.encode(config))
        command = _module("fleet_emulation.simulated_fleet", path)
        return Program("the simulated fleet", command, log=self.logs / "simulated_fleet.log")

    def listening(self) -> list[ListenerReport]:
        """Return the TCP sockets that the demo's programs listen on, as the kernel says it."""
        programs = [*(agent.program for agent in self.agents), self.simulation, self.server]
        programs += [self.broker.program] if self.broker else []
        return [
            ListenerReport(program=program.name, address=x.address, port=x.port, on_loopback=x.on_loopback)
            for program in programs
            if program is not None
            for x in listeners([program.pid])
        ]

    def stop(self) -> None:
        """Stop everything, devices first; the simulation's last words are its totals."""
        if self.simulation is not None:
            self.simulation.process.terminate()
            self.totals = self.simulation.ready(SimulationTotals)
            self.simulation.stop()
        for agent in self.agents:
            agent.program.stop()
        self.stop_server()
        if self.broker is not None:
            self.broker.stop()

    def clear(self) -> None:
        """Delete everything that the demo wrote."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", name, *(str(argument) for argument in arguments)]


def _write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(text)
