# SPDX-License-Identifier: Apache-2.0
"""An MQTT broker on loopback: mosquitto where it is installed, else the embedded amqtt (MQTT 3.1.1)."""

import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Literal

from edgefleet.contracts.errors import UnreachableError
from fleet_emulation.processes import Program

BrokerKind = Literal["mosquitto", "amqtt"]
_SYSTEM_PATH = "/usr/sbin:/usr/local/sbin"


class Broker:
    """A running broker. ``kind`` is ``mosquitto`` or ``amqtt``; ``port`` listens on 127.0.0.1."""

    def __init__(self, folder: Path, *, kind: BrokerKind | None = None) -> None:
        self.kind: BrokerKind = kind or ("mosquitto" if find_mosquitto() else "amqtt")
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.program = Program("the MQTT broker", self._command(folder), log=folder / "broker.log")
        wait_for_port(self.port, self.program)

    @property
    def url(self) -> str:
        """The broker's address as ``edgefleet server run --broker`` takes it."""
        return f"mqtt://127.0.0.1:{self.port}"

    def _command(self, folder: Path) -> list[str]:
        if self.kind == "amqtt":
            return [sys.executable, "-m", "fleet_emulation.amqtt_broker", str(self.port)]
        settings = folder / "mosquitto.conf"
        settings.write_text(_mosquitto_settings(self.port))
        return [str(find_mosquitto()), "-c", str(settings)]

    def stop(self) -> None:
        """Stop the broker."""
        self.program.stop()


def _mosquitto_settings(port: int) -> str:
    """Return mosquitto's configuration.

    Where we are root it stays so too: a change of user takes from a process the signal that it would get at our death,
    and then a SIGKILL to us would leave it behind.
    """
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false", "max_queued_messages 20000"]
    lines += ["user root"] if os.geteuid() == 0 else []
    return "\n".join(lines) + "\n"


def find_mosquitto() -> str | None:
    """Return the path of mosquitto's broker, which Debian puts where ordinary users do not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SYSTEM_PATH)


def free_port() -> int:
    """Return a TCP port on which nobody listens on 127.0.0.1 just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, program: Program, *, limit_s: float = 120.0) -> None:
    """Wait until a program listens on 127.0.0.1.

    Raises:
        UnreachableError: it ended, or does not listen in time.
    """
    deadline = time.monotonic() + limit_s
    while program.running and time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise UnreachableError(f"{program.name} does not listen on port {port}", hint=f"see its log: {program.log}")
