# SPDX-License-Identifier: Apache-2.0
"""The system programs that emulated devices need, and running one to its end."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError, MissingProgramError

_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
#: Where each program comes from, as Debian and Ubuntu name the package.
_PACKAGES = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "qemu-aarch64": "qemu-user",
    "qemu-system-aarch64": "qemu-system-arm",
}


def program(name: str) -> str:
    """Return a program's path, also where it lies in a folder that ordinary users do not search.

    Raises:
        MissingProgramError: it is not installed.
    """
    found = find_program(name)
    if found is None:
        package = _PACKAGES.get(name, name)
        raise MissingProgramError(
            f"emulated Linux devices need the program '{name}', which is not installed",
            hint=f"install it (Debian, Ubuntu: apt-get install {package})",
        )
    return found


def find_program(name: str) -> str | None:
    """Return a program's path, or None."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)


class ProgramFailedError(EdgeFleetError):
    """A program that was run to its end failed; ``last_words`` is the end of what it said."""

    def __init__(self, what: str, last_words: str, *, hint: str) -> None:
        super().__init__(f"{what}: {last_words}", hint=hint)
        self.last_words = last_words


def run_program(
    command: Sequence[str],
    *,
    what: str,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a program to its end, in ``folder``, and return its output; ``what`` says in an error what did not work.

    Raises:
        ProgramFailedError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramFailedError(
            what, f"'{command[0]}' took longer than {limit_s:.0f} s", hint="try again on a machine with less to do"
        ) from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith(("E:", "ERROR:"))] or said[-1:] or ["no message"]
        raise ProgramFailedError(what, errors[0][:300], hint=f"run it by hand to see more: {' '.join(command[:4])} …")
    return done.stdout
