# SPDX-License-Identifier: Apache-2.0
"""Arm programs as processes of this machine: a device's Python with LiteRT and the agent, run by qemu-user.

Several times faster than a whole machine, and with this machine's kernel, files and network: for questions about
arithmetic and packages. ``device`` is for questions about devices.

    python = arm_python("raspberry-pi-4")
    python.run(["-c", "import platform; print(platform.machine())"])    # aarch64
    Program("agent", python.command("-m", "device_agent", "run", ...), environment=python.environment, ...)

No root, no container and no registration with the kernel: QEMU finds the C library below the device's root file system,
and ``sys.executable`` is a script there that starts QEMU again, so that programs may start Python as they always do.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.profile import Profile
from fleet_emulation.linux_devices.profiles import cpu_of, linux_profile
from fleet_emulation.linux_devices.programs import program
from fleet_emulation.linux_devices.result import Result
from fleet_emulation.linux_devices.root_file_system import USER_MODE_PYTHON, RootFileSystem, root_file_system
from fleet_emulation.linux_devices.software import software_for

QEMU = "qemu-aarch64"


@dataclass(frozen=True)
class ArmPython:
    """A device's Python on this machine; EdgeFleet's rooms on a device can be imported."""

    root: RootFileSystem
    cpu: str
    software: Path

    @property
    def executable(self) -> Path:
        """What to start instead of ``python3``; it needs :attr:`environment`."""
        return self.root.tree / USER_MODE_PYTHON

    @property
    def environment(self) -> Mapping[str, str]:
        """What to add to the environment."""
        of_this_machine = {"PYTHONHOME": "", "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}  # shall not be seen
        return {"QEMU_CPU": self.cpu, "PYTHONPATH": str(self.software), **of_this_machine}

    def command(self, *arguments: object) -> list[str]:
        """Return the words that start Python with these arguments."""
        return [str(self.executable), *map(str, arguments)]

    def run(self, arguments: Sequence[object], *, stdin: bytes = b"", limit_s: float = 60.0) -> Result:
        """Run Python to its end.

        Raises:
            UnreachableError: it takes longer than ``limit_s``; then it is ended.
        """
        command = self.command(*arguments)
        environment = os.environ | dict(self.environment)
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, env=environment, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(
                f"'{' '.join(command[1:])[:200]}' takes longer than {limit_s:g} s on an emulated {self.cpu}",
                hint="give it more time, or see what it waits for",
            ) from error
        return Result(done.returncode, done.stdout, done.stderr)


def arm_python(profile: str | Profile = "raspberry-pi-4") -> ArmPython:
    """Return the Python of a device; the root file system is made if there is none.

    Raises:
        MissingProgramError: qemu-user is not installed.
        UnreachableError: there is no root file system and no network.
        InputError: the profile is of no arm64 Linux device.
    """
    facts = linux_profile(profile)
    program(QEMU)
    root = root_file_system()
    return ArmPython(root, cpu_of(facts), software_for(root) / "software")
