# SPDX-License-Identifier: Apache-2.0
"""The wheel, built once, and installed with one extra at a time into virtual environments of their own."""

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: The extras that are small enough for every run; tensorflow, torch and mcu belong to the campaign.
EXTRAS = ("demo", "converter", "device", "emulation", "server", "")  # the slowest first
Completed = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel with one extra, and nothing else."""

    extra: str
    folder: Path

    def run(self, program: str, *arguments: str) -> Completed:
        """Run one of the environment's programs, away from the checkout."""
        command = [str(self.folder / "bin" / program), *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def evaluate(self, code: str) -> Any:
        """Run Python code there that leaves its result in ``result``."""
        done = self.run("python", "-c", f"import json\n{code}\nprint(json.dumps(result))")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel_names(wheel: Path) -> frozenset[str]:
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


@pytest.fixture(scope="session")
def installations(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Installed]]]:
    """All environments, made two at a time while the first tests run already, and removed again."""
    folder = tmp_path_factory.mktemp("venvs")
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {extra: pool.submit(_install, wheel, extra, folder) for extra in EXTRAS}
    shutil.rmtree(folder)  # two gigabytes, which pytest would keep for three runs


@pytest.fixture
def installed(installations: Mapping[str, Future[Installed]]) -> Callable[[str], Installed]:
    return lambda extra: installations[extra].result()


def _install(wheel: Path, extra: str, folder: Path) -> Installed:
    target = folder / (extra or "none")
    venv.create(target, with_pip=False, symlinks=True)
    requirement = f"{wheel}[{extra}]" if extra else str(wheel)
    _pip("--python", str(target / "bin" / "python"), "install", "--quiet", "--no-compile", requirement)
    return Installed(extra, target)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
