# SPDX-License-Identifier: Apache-2.0
"""Other people's programs: found or missed in one sentence, run with a limit, and their answers kept."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet.contracts.errors import BuildError

_WRONG = re.compile(
    r"error|undefined|cannot|can't|overlaps|truncated|overflow|will not fit|multiple definition", re.IGNORECASE
)


@dataclass(frozen=True)
class Answer:
    """How a program ended, and what it said on both streams."""

    status: int
    text: str

    @property
    def first_error(self) -> str:
        """The first line that speaks of an error, or the first that says anything."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip() and not line.startswith("collect2:")]
        wrong = [line for line in lines if _WRONG.search(line)]
        return (wrong or lines or [f"it ended with status {self.status} and said nothing"])[0]


def on_path(name: str) -> str | None:
    """Return the program's absolute path, if PATH has it."""
    return shutil.which(name)


def ask(command: Sequence[str], *, limit_s: float = 300.0, folder: Path | None = None) -> Answer:
    """Run a program to its end.

    Raises:
        BuildError: it cannot be started, or takes longer than ``limit_s``.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"'{command[0]}' took longer than {limit_s:g} s and was stopped",
            hint="try again on a machine that is less busy",
        ) from error
    except OSError as error:
        raise BuildError(
            f"'{command[0]}' cannot be started: {error.strerror or error}", hint="install it again"
        ) from error
    return Answer(done.returncode, done.stdout.decode(errors="replace"))


def _environment() -> Mapping[str, str]:
    """Messages in English; nothing that would change what a compiler makes."""
    steering = {"CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX", "COMPILER_PATH", "CFLAGS", "LDFLAGS"}
    kept = {name: value for name, value in os.environ.items() if name not in steering}
    return {**kept, "LC_ALL": "C"}
