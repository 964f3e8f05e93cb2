# SPDX-License-Identifier: Apache-2.0
"""QEMU's own control socket (QEMU Machine Protocol, docs/interop/qmp-spec)."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgefleet.contracts.errors import EdgeFleetError, UnreachableError

_LOOK_AGAIN_S = 0.005
_LIMIT_S = 30.0


def connect(path: Path, *, alive: Callable[[], bool], limit_s: float) -> socket.socket:
    """Connect to a socket that a program, as long as it is alive, is about to make.

    Raises:
        UnreachableError: it is not there in time.
    """
    deadline = time.monotonic() + limit_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.monotonic() >= deadline or not alive():
                raise UnreachableError(f"QEMU does not answer on '{path}'", hint="see its log") from None
            time.sleep(_LOOK_AGAIN_S)
        else:
            return connection


class Qmp:
    """A connection to one QEMU; not for two threads at once."""

    def __init__(self, path: Path, *, alive: Callable[[], bool], limit_s: float) -> None:
        self._connection = connect(path, alive=alive, limit_s=limit_s)
        self._connection.settimeout(_LIMIT_S)
        self._lines = self._connection.makefile("rwb")
        self.tell("qmp_capabilities")

    def tell(self, command: str, **arguments: object) -> Any:
        """Carry out a command and return its answer.

        Raises:
            EdgeFleetError: QEMU refuses it.
            UnreachableError: QEMU does not answer, or ended.
        """
        words = {"execute": command} | ({"arguments": arguments} if arguments else {})
        try:
            self._lines.write(json.dumps(words).encode() + b"\n")
            self._lines.flush()
            while True:
                answer = self._message()
                if "error" in answer:
                    raise EdgeFleetError(f"QEMU refuses '{command}': {answer['error']['desc']}", hint="see its log")
                if "return" in answer:
                    return answer["return"]  # a greeting and events come between
        except OSError as error:
            raise UnreachableError(f"QEMU does not answer '{command}'", hint="see its log") from error

    def wait_for(self, command: str, states: tuple[str, ...], *, limit_s: float = _LIMIT_S) -> str:
        """Ask again and again until the answer's status is one of these, and return it.

        Raises:
            UnreachableError: it is none of these in time.
        """
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            status = str(self.tell(command).get("status"))
            if status in states:
                return status
            time.sleep(_LOOK_AGAIN_S)
        raise UnreachableError(f"QEMU takes longer than {limit_s:.0f} s for '{command}'", hint="see its log")

    def close(self) -> None:
        """Close the connection; what QEMU, already gone, did not take is dropped."""
        with suppress(OSError):  # closing writes what a failed write left in the buffer
            self._lines.close()
        self._connection.close()

    def _message(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line.endswith(b"\n"):  # nothing, or half a message
            raise ConnectionResetError("QEMU ended")
        found: dict[str, Any] = json.loads(line)
        return found
