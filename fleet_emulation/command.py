# SPDX-License-Identifier: Apache-2.0
"""Run the real command line, as a person would, and read its JSON answer."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgefleet.contracts.errors import EdgeFleetError

_LIMIT_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What a command answered: its exit status and its JSON document."""

    command: tuple[str, ...]
    status: int
    document: Any
    stderr: str

    @property
    def error_code(self) -> str:
        """The stable code of the error that the command printed, or an empty text."""
        error = self.document.get("error", {}) if isinstance(self.document, dict) else {}
        return str(error.get("code", ""))

    @property
    def error_message(self) -> str:
        """The sentence that the command printed, or an empty text."""
        error = self.document.get("error", {}) if isinstance(self.document, dict) else {}
        return str(error.get("message", ""))


def edgefleet(*arguments: str | Path, home: Path | None = None) -> Outcome:
    """Run ``edgefleet ... --json`` in a process of its own; ``home`` is whose keys and login it uses."""
    words = tuple(str(word) for word in arguments)
    environment = dict(os.environ)
    if home is not None:
        environment["EDGEFLEET_HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-m", "edgefleet.cli", *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=_LIMIT_S,
    )
    return Outcome(words, done.returncode, _document(done.stdout), done.stderr)


def require(outcome: Outcome) -> Any:
    """Return a command's document.

    Raises:
        EdgeFleetError: the command failed.
    """
    if outcome.status != 0:
        raise EdgeFleetError(
            f"'edgefleet {' '.join(outcome.command[:3])}' exited with {outcome.status}: "
            f"{outcome.error_message or outcome.stderr.strip()[-600:]}",
            hint="run it by hand to see more",
        )
    return outcome.document


def _document(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return None
