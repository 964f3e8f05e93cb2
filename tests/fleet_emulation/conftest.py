# SPDX-License-Identifier: Apache-2.0
"""One small real fleet for all tests that need one, and the command line as a person meets it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet_emulation.demo.run import example_folder
from fleet_emulation.rehearsal import Rehearsal

LIMIT_S = 60.0
Told = tuple[int, str]


@pytest.fixture(scope="session", name="digits_example")
def _digits_example() -> Path:
    return example_folder()


@pytest.fixture(scope="session", name="rehearsal")
def _rehearsal(tmp_path_factory: pytest.TempPathFactory, digits_example: Path) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("rehearsal") / "fleet"
    with Rehearsal(folder, digits_example, agents=2, seed=1) as rehearsal:
        yield rehearsal


@pytest.fixture(scope="session", name="tell")
def _tell() -> Callable[..., Told]:
    """Run ``python -m MODULE ...`` as a person does; return its exit status and what it says on standard error."""

    def tell(module: str, *arguments: object, home: Path | None = None) -> Told:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **({"EDGEFLEET_HOME": str(home)} if home else {})},
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_S,
        )
        return done.returncode, done.stderr

    return tell


def hash_of(folder: Path) -> str:
    """Return one hash over all paths and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session", name="hash_of")
def _hash_of() -> Callable[[Path], str]:
    return hash_of
