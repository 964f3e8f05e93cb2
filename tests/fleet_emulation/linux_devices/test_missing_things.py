# SPDX-License-Identifier: Apache-2.0
"""A machine without QEMU, without the network, without pip: one sentence each, and nothing half-made."""

from pathlib import Path

import pytest

from edgefleet.contracts.errors import MissingProgramError, UnreachableError
from fleet_emulation.linux_devices import programs, wheels
from fleet_emulation.linux_devices.apt_sources import SOURCES_VARIABLE
from fleet_emulation.linux_devices.cache import cache_folder
from fleet_emulation.linux_devices.device import linux_device, missing
from fleet_emulation.linux_devices.programs import find_program
from fleet_emulation.linux_devices.root_file_system import find_root_file_system, root_file_system
from fleet_emulation.linux_devices.user_mode import arm_python


@pytest.fixture(name="no_programs")
def _no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_SYSTEM_PATH", str(tmp_path))


@pytest.fixture(name="nobodys_sources")
def _nobodys_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources at which nobody listens, on whatever system this is."""
    (tmp_path / "sources.list").write_text("deb [trusted=yes] http://127.0.0.1:9/debian bookworm main\n")
    monkeypatch.setenv(SOURCES_VARIABLE, str(tmp_path / "sources.list"))


@pytest.fixture(name="no_network")
def _no_network(nobodys_sources: None) -> None:
    if find_program("apt-get") is None or find_program("mke2fs") is None:
        pytest.skip("the program 'apt-get' or 'mke2fs' is not installed")


def test_without_qemu_a_device_says_which_package_brings_it(no_programs: None) -> None:
    with pytest.raises(MissingProgramError) as raised, linux_device():
        pytest.fail("there is no QEMU")
    assert raised.value.message == (
        "emulated Linux devices need the program 'qemu-system-aarch64', which is not installed"
    )
    assert raised.value.hint == "install it (Debian, Ubuntu: apt-get install qemu-system-arm)"
    assert missing() == "the program 'qemu-system-aarch64' is not installed"


def test_without_qemu_user_python_says_which_package_brings_it(no_programs: None) -> None:
    with pytest.raises(
        MissingProgramError, match=r"need the program 'qemu-aarch64', which is not installed$"
    ) as raised:
        arm_python()
    assert raised.value.hint == "install it (Debian, Ubuntu: apt-get install qemu-user)"


def test_without_the_programs_that_make_a_root_file_system_nothing_is_begun(
    no_programs: None, nobodys_sources: None, empty_cache: Path
) -> None:
    with pytest.raises(MissingProgramError, match=r"need the program 'mke2fs', which is not installed$"):
        root_file_system(say=lambda _: None)
    assert find_root_file_system() is None


def test_without_the_network_there_is_one_sentence_and_nothing_half_made(no_network: None, empty_cache: Path) -> None:
    said: list[str] = []
    with pytest.raises(UnreachableError) as raised:
        root_file_system(say=said.append)
    assert raised.value.message.startswith("Debian's arm64 packages cannot be fetched: E: ")
    assert raised.value.hint == "connect this machine to the network once"
    assert said == ["making the root file system of arm64 devices, once: fetching Debian's packages"]
    assert [path.suffix for path in (cache_folder() / "root").iterdir()] == [".lock"]


def test_wheels_that_cannot_be_fetched_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UnreachableError) as raised:
        wheels.install_wheels(["edgefleet-has-no-such-wheel"], tmp_path / "target", python="3.11")
    assert raised.value.message.startswith("the arm64 wheels cannot be fetched: ERROR: ")
    assert "edgefleet-has-no-such-wheel" in raised.value.message
    assert raised.value.hint == "connect this machine to the network once, and see that 'python -m pip' works here"


def test_a_device_needs_what_edgefleets_own_metadata_says() -> None:
    found = wheels.device_requirements()
    assert "ai-edge-litert==2.3.0" in found
    assert any(line.startswith("msgspec") for line in found)
    assert not any(line.startswith(("fastapi", "ai-edge-quantizer", "typer", "pytest")) for line in found)
