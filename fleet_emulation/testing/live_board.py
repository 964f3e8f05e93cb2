# SPDX-License-Identifier: Apache-2.0
"""A board that is switched on and stays on until it is switched off or its program ends."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from edgefleet.boards.emulator import Board as EmulatedBoard
from edgefleet.boards.emulator import start
from edgefleet.boards.images import Image
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.profile import Profile
from fleet_emulation.testing.serial_line import SerialLine


class LiveBoard:
    """One such board. It is off at first; its process ends at the latest with the thread that switched it on."""

    def __init__(self, profile: Profile, image: Image, *, number: int = 0) -> None:
        self.profile = profile
        self.name = f"the emulated {profile.id}" + (f" number {number}" if number else "")
        self._image = image
        self._opened = ExitStack()
        self._board: EmulatedBoard | None = None
        self._line: SerialLine | None = None

    @property
    def on(self) -> bool:
        """Tell whether it runs."""
        return self._board is not None and self._board.alive

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self._running().pid

    @property
    def text(self) -> str:
        """What it printed by semihosting since it was switched on, and QEMU's own messages."""
        return self._board.output if self._board is not None else ""

    @property
    def uart(self) -> SerialLine:
        """Its first serial port.

        Raises:
            UnreachableError: it is off.
        """
        if self._line is None:
            raise self._off()
        return self._line

    def start(self) -> None:
        """Switch it on, and wait for nothing: it runs from the first instruction on.

        Raises:
            MissingProgramError: QEMU is not installed.
            BoardError: QEMU cannot be started.
        """
        self.cut_power()
        folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="edgefleet-board-")))
        self._board = start(self._image, self.profile, folder=folder, uarts=(0,), uart_wait=True, timeout_s=None)
        self._opened.callback(self._board.stop)
        self._line = SerialLine(self._board.connect(0), self.name)
        self._opened.callback(self._line.close)

    def cut_power(self) -> None:
        """End its process and wait until it is gone; what it had in memory is lost."""
        self._opened.close()
        self._board = self._line = None

    def _running(self) -> EmulatedBoard:
        if self._board is None or not self._board.alive:
            raise self._off()
        return self._board

    def _off(self) -> UnreachableError:
        said = self.text.strip().splitlines()[-1:]
        return UnreachableError(f"{self.name} is off" + "".join(f"; it said: {line}" for line in said), hint="start it")
