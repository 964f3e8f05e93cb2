# SPDX-License-Identifier: Apache-2.0
"""A serial port, read line by line with a deadline: 8 data bits, no parity, 1 stop bit; termios and select do it."""

import os
import select
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgefleet.contracts.errors import InputError, UnreachableError

#: No line of a board's answer is longer; what has no end of line by then is no answer.
LONGEST_LINE_BYTES = 1024
_CHUNK_BYTES = 4096
_READ_EVERYTHING = 6  # the index of the control characters among termios' attributes


class PortGoneError(UnreachableError):
    """The port was there, and is not any more."""


@dataclass
class SerialPort:
    """An open port. ``received`` is what came and is no whole line yet."""

    name: str
    descriptor: int
    received: bytearray = field(default_factory=bytearray)

    def line(self, *, deadline_s: float) -> bytes | None:
        """Return the next line without its end, or None where the deadline (of ``time.monotonic``) passes before it.

        What grows over a line's limit is returned as it is.

        Raises:
            PortGoneError: the port went away.
        """
        while b"\n" not in self.received and len(self.received) < LONGEST_LINE_BYTES:
            wait_s = deadline_s - time.monotonic()
            if wait_s <= 0 or not select.select([self.descriptor], [], [], wait_s)[0]:
                return None
            self.received += self._read()
        line, _, rest = bytes(self.received).partition(b"\n")
        self.received = bytearray(rest)
        return line.removesuffix(b"\r")

    def _read(self) -> bytes:
        try:
            data = os.read(self.descriptor, _CHUNK_BYTES)
        except OSError as error:
            raise self._gone() from error
        if not data:  # the end of file, as some drivers say it
            raise self._gone()
        return data

    def _gone(self) -> PortGoneError:
        return PortGoneError(
            f"the serial port '{self.name}' went away", hint="check the cable and the board's power, then try again"
        )


@contextmanager
def open_port(path: Path, *, baud: int) -> Iterator[SerialPort]:
    """Open a serial port for reading, raw, and close it again.

    Raises:
        InputError: no serial port has this speed.
        UnreachableError: there is no such port, it may not be opened, or it is no serial port.
    """
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise InputError(f"no serial port runs at {baud} baud", hint="115200 is usual: --baud 115200")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise UnreachableError(
            f"cannot open the serial port '{path}': {error.strerror}",
            hint="check its name and that you may read it (often: be in the group dialout)",
        ) from error
    try:
        _make_raw(descriptor, speed, path)
        yield SerialPort(str(path), descriptor)
    finally:
        os.close(descriptor)


def _make_raw(descriptor: int, speed: int, path: Path) -> None:
    try:
        attributes = termios.tcgetattr(descriptor)
        attributes[:4] = [0, 0, termios.CS8 | termios.CREAD | termios.CLOCAL, 0]
        attributes[4:_READ_EVERYTHING] = [speed, speed]
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
        termios.tcflush(descriptor, termios.TCIFLUSH)
    except termios.error as error:
        raise UnreachableError(
            f"'{path}' is no serial port: {error.args[-1]}", hint="name the board's port, such as /dev/ttyACM0"
        ) from error
