# SPDX-License-Identifier: Apache-2.0
"""Tests of emulated boards (``pytest.mark.boards``) are skipped where boards cannot be built or booted.

No example of a property test has a time limit, and no test fails because examples are made slowly: a busy machine is
not what is tested. A failing example is printed with what repeats it.
"""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("unhurried")

#: What builds and boots boards, and the Debian package that brings each program.
_PROGRAMS = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "gcc": "gcc",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of boards, and name the packages that are missing."""
    if item.get_closest_marker("boards") is None:
        return
    missing = sorted(package for program, package in _PROGRAMS.items() if shutil.which(program) is None)
    if missing:
        pytest.skip(f"missing: apt-get install {' '.join(missing)}")


#: What an agent or a server of before consists of.
_ROOMS = ("device_agent", "edgefleet", "firmware_profiles", "fleet_server")


@pytest.fixture(scope="session", name="older_code")
def _older_code(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a folder with the real code of an earlier commit, for PYTHONPATH; skip where the history has none."""
    made: dict[str, Path] = {}

    def of(commit: str) -> Path:
        if commit not in made:
            repository = Path(__file__).parents[1]
            archive = ["git", "-C", str(repository), "archive", commit, "--", *_ROOMS]
            packed = subprocess.run(archive, capture_output=True) if shutil.which("git") else None
            if packed is None or packed.returncode:
                pytest.skip(
                    f"the commit {commit} is missing in this clone's history; get it with: git fetch --unshallow"
                )
            made[commit] = tmp_path_factory.mktemp(f"code-of-{commit}")
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
                tar.extractall(made[commit], filter="data")
        return made[commit]

    return of
