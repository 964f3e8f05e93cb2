# SPDX-License-Identifier: Apache-2.0
"""One root file system and one running device for all tests that need them; where they cannot be had, the reason."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet.contracts.errors import MissingProgramError, SettingError, UnreachableError
from fleet_emulation.linux_devices.device import LinuxDevice, linux_device, missing
from fleet_emulation.linux_devices.root_file_system import RootFileSystem, root_file_system
from fleet_emulation.linux_devices.user_mode import ArmPython, arm_python


@pytest.fixture(scope="session", name="root")
def _root() -> RootFileSystem:
    """The root file system; made now, in half a minute, if the network allows."""
    try:
        return root_file_system()
    except (UnreachableError, MissingProgramError, SettingError) as error:
        pytest.skip(f"there is no root file system of arm64 devices: {error}")


@pytest.fixture(scope="session", name="can_boot")
def _can_boot(root: RootFileSystem) -> None:
    if reason := missing():
        pytest.skip(f"no emulated Linux device can run: {reason}")


@pytest.fixture(scope="session", name="pi")
def _pi(can_boot: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxDevice]:
    """A device that several tests use; none of them may change what the others see."""
    with linux_device("raspberry-pi-4", folder=tmp_path_factory.mktemp("pi")) as device:
        yield device


@pytest.fixture(scope="session", name="arm")
def _arm(root: RootFileSystem) -> ArmPython:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("the program 'qemu-aarch64' is not installed")
    return arm_python("raspberry-pi-4")


@pytest.fixture(scope="session", name="shared_models")
def _shared_models() -> Path:
    repository = Path(__file__).parents[3]
    models = Path(os.environ.get("EDGEFLEET_SHARED", repository.parent / "shared")) / "models"
    if not (models / "kws_int8.tflite").exists():
        pytest.skip(f"there are no shared models in '{models}' (EDGEFLEET_SHARED)")
    return models


@pytest.fixture(name="empty_cache")
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing was made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
