# SPDX-License-Identifier: Apache-2.0
"""What the agent tells the service manager (sd_notify(3)): that it is ready, alive, stopping, and what it is at."""

import socket
from collections.abc import Mapping
from contextlib import suppress

_US = 1e6
_STATUS_CHARACTERS = 200


class ServiceManager:
    """Speaks systemd's notification protocol; without a manager that listens, it says nothing."""

    def __init__(self, environment: Mapping[str, str], *, pid: int) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        #: How often the manager wants a sign of life, 0 if it does not.
        self.watchdog_s = _watchdog_s(environment, pid)
        self._status = ""

    def ready(self) -> None:
        """Applications can connect."""
        self._tell("READY=1")

    def alive(self) -> None:
        """The loop turned, and the worker answers."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """A clean stop has begun."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in one line what the device is at, if that changed."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={' '.join(text.split())[:_STATUS_CHARACTERS]}")

    def _tell(self, line: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            end.sendto(line.encode(), socket.MSG_DONTWAIT, address)  # a manager that does not read holds up nobody


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float:
    wanted = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid) or not wanted.isdecimal():
        return 0.0
    return int(wanted) / _US
