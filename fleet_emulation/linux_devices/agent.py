# SPDX-License-Identifier: Apache-2.0
"""The real agent on an emulated device, as a user of its own, installed and started as its service would be."""

import signal
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from edgefleet.contracts.enrolment import EnrolmentTicket
from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.linux_devices.application_socket import ApplicationSocket
from fleet_emulation.linux_devices.root_file_system import AGENT_USER

if TYPE_CHECKING:
    from fleet_emulation.linux_devices.device import LinuxDevice

DATA = "/data/agent"
_SETTINGS = "/data/agent.toml"
_LOG = "/data/agent.log"
_COMMAND = "/usr/bin/edgefleet-agent"
_START_S = 90.0
_STOP_S = 60.0


class DeviceAgent:
    """An agent that was enrolled on a device. ``socket`` is where this machine's applications reach it.

    After a power cut the device is started first, and then the agent: nothing on the device does it.
    """

    def __init__(self, device: "LinuxDevice", socket: Path, *, time_scale: float) -> None:
        self.device = device
        self.socket = socket
        self._time_scale = time_scale
        self._pid: int | None = None
        self._applications = ApplicationSocket(socket, self._exchange)

    def start(self) -> None:
        """Run the agent, and wait until it listens for applications.

        Raises:
            EdgeFleetError: it ended; the message ends with its last words.
        """
        command = [_COMMAND, "run", "--data", DATA, "--config", _SETTINGS, "--time-scale", str(self._time_scale)]
        started = self.device.start_program(command, log=_LOG, user=AGENT_USER, limit_s=_START_S)
        if not started.first_line:
            said = self.log().strip().splitlines()[-1:]
            raise EdgeFleetError(
                f"the agent on {self.device.name} did not start: {' '.join(said)}", hint="see DeviceAgent.log()"
            )
        self._pid = started.pid

    def stop(self) -> int:
        """End the agent as its service manager does (SIGTERM), and return its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End the agent at once (SIGKILL), and return its exit status."""
        return self._end(signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        """Return what ``edgefleet-agent status --json`` says on the device."""
        done = self.device.run([_COMMAND, "status", "--data", DATA, "--json"], user=AGENT_USER)
        found: dict[str, Any] = msgspec.json.decode(done.stdout)
        return found

    def log(self) -> str:
        """Return what the agent said on standard error, over all its starts."""
        return self.device.get(_LOG).decode(errors="replace")

    def close(self) -> None:
        """Hang up on this machine's applications."""
        self._applications.close()

    def _end(self, number: int) -> int:
        assert self._pid is not None  # noqa: S101  # enrolled_agent() starts it
        return self.device.end_program(self._pid, number=number, limit_s=_STOP_S)

    def _exchange(self, application: int, frame: bytes) -> bytes:
        return self.device.exchange(application, f"{DATA}/inference.sock", frame, limit_s=_STOP_S)


def enrolled_agent(
    device: "LinuxDevice", ticket: Path, socket: Path, *, time_scale: float, settings: Mapping[str, float | str]
) -> DeviceAgent:
    """Enrol an agent on a device and start it; server and broker on this machine's loopback become reachable.

    Raises:
        EdgeFleetError: it cannot enrol, or does not start.
    """
    content = ticket.read_bytes()
    device.put(content, "/run/ticket.json")
    _reach(device, msgspec.json.decode(content, type=EnrolmentTicket).server_url)
    device.run(["chmod", "0644", "/run/ticket.json"])
    device.run(["sh", "-c", f"mkdir -p {DATA} && chown {AGENT_USER}:{AGENT_USER} {DATA}"])
    device.put("".join(f"{name} = {_toml(value)}\n" for name, value in settings.items()).encode(), _SETTINGS)
    device.put(b"", _LOG)
    command = [_COMMAND, "enrol", "--ticket", "/run/ticket.json", "--data", DATA]
    done = device.run(command, user=AGENT_USER, limit_s=_START_S)
    if done.status != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise EdgeFleetError(f"{device.name} could not enrol: {said}", hint="see the server's log")
    identity = msgspec.json.decode(device.get(f"{DATA}/identity/device.json"))
    if broker := identity.get("broker"):
        _reach(device, f"mqtt://{broker['host']}:{broker['port']}")
    agent = DeviceAgent(device, socket, time_scale=time_scale)
    agent.start()
    return agent


def _reach(device: "LinuxDevice", url: str) -> None:
    """Open the way to a service if it is one of this machine's own."""
    where = urlsplit(url)
    if where.port is not None and _is_loopback(where.hostname or ""):
        device.reach(where.port)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _toml(value: float | str) -> str:
    return msgspec.json.encode(value).decode()
