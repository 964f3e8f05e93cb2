# SPDX-License-Identifier: Apache-2.0
"""QEMU on this machine: where it is, and which release."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgefleet.boards.programs import ask, on_path
from edgefleet.contracts.errors import IncompatibleError, MissingProgramError
from edgefleet.contracts.profile import Emulator, Profile

#: A folder to look into before PATH: for a QEMU beside the system's.
FOLDER_VARIABLE = "EDGEFLEET_QEMU_DIR"
_PACKAGES = {"qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}
_OLDEST = (7, 2)
_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class Qemu:
    """One QEMU program, and its release."""

    program: Path
    version: tuple[int, int, int]

    @property
    def plugin_api(self) -> int:
        """The version of the interface for TCG plugins: 9.0 broke it, and takes 2 since."""
        return 1 if self.version < (9, 0, 0) else 2


def emulator_of(profile: Profile) -> Emulator:
    """Return how QEMU stands in for the board.

    Raises:
        IncompatibleError: it does not.
    """
    if profile.emulator is None:
        raise IncompatibleError(
            f"QEMU has no machine for '{profile.id}': its code is compiled and not run",
            hint="run it on the emulated board with the same core; 'edgefleet profiles list' shows them",
        )
    return profile.emulator


def find_qemu(profile: Profile) -> Qemu:
    """Return the program that emulates the board, from EDGEFLEET_QEMU_DIR or PATH.

    Raises:
        MissingProgramError: it is not installed, too old, or says no version.
        IncompatibleError: QEMU has no machine for the board.
    """
    name = emulator_of(profile).program
    folder = os.environ.get(FOLDER_VARIABLE)
    path = str(Path(folder) / name) if folder else on_path(name)
    if path is None or not os.access(path, os.X_OK):
        where = f" in {folder} ({FOLDER_VARIABLE})" if folder else ""
        raise MissingProgramError(
            f"the emulator '{name}' is not installed{where}", hint=f"run: apt-get install {_PACKAGES.get(name, name)}"
        )
    return _at(path)


@cache
def _at(path: str) -> Qemu:
    answer = ask((path, "--version"))
    found = _VERSION.search(answer.text)
    if found is None:
        raise MissingProgramError(
            f"'{path}' does not say which QEMU it is: {answer.first_error}", hint="install QEMU 7.2 or later"
        )
    major, minor, patch = (int(part) for part in found.groups())
    if (major, minor) < _OLDEST:
        raise MissingProgramError(f"'{path}' is QEMU {major}.{minor}.{patch}", hint="install QEMU 7.2 or later")
    return Qemu(Path(path), (major, minor, patch))
