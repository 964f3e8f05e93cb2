# SPDX-License-Identifier: Apache-2.0
"""The Python packages of an arm64 device: the wheels that EdgeFleet's extra ``device`` asks for, by pip, unpacked."""

import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError, UnreachableError
from fleet_emulation.linux_devices.programs import ProgramFailedError, run_program

_LIMIT_S = 600.0
#: Wheels for any of these C libraries run on Debian 12 (glibc 2.36) and later.
_GLIBC = range(17, 37)
_EXTRA = re.compile(r"""extra\s*==\s*['"](?P<name>[^'"]+)['"]""")
_WHAT = "the arm64 wheels cannot be fetched"


def device_requirements() -> list[str]:
    """Return what EdgeFleet and its extra ``device`` require, as its own metadata says, sorted.

    Raises:
        EdgeFleetError: EdgeFleet is not installed.
    """
    try:
        stated = requires("edgefleet") or []
    except PackageNotFoundError as error:
        raise EdgeFleetError(
            "EdgeFleet is not installed in this Python environment", hint="run: pip install --editable ."
        ) from error
    found = []
    for line in stated:
        requirement, _, marker = line.partition(";")
        extra = _EXTRA.search(marker)
        if extra is None or extra["name"] == "device":
            found.append(requirement.strip())
    return sorted(found)


def install_wheels(requirements: Sequence[str], folder: Path, *, python: str) -> None:
    """Unpack wheels for arm64 Linux and one version of Python (``3.11``) into a folder, without their tests.

    Raises:
        UnreachableError: pip cannot get them.
    """
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in _GLIBC] + ["manylinux2014_aarch64"]
    chosen = [word for name in platforms for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(folder), "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    try:
        run_program([*command, *chosen, *requirements], what=_WHAT, limit_s=_LIMIT_S)
    except ProgramFailedError as error:
        hint = "connect this machine to the network once, and see that 'python -m pip' works here"
        raise UnreachableError(error.message, hint=hint) from error
    for tests in sorted(folder.rglob("tests")):
        shutil.rmtree(tests, ignore_errors=True)
    shutil.rmtree(folder / "bin", ignore_errors=True)  # scripts for this machine's Python
