# SPDX-License-Identifier: Apache-2.0
"""A device with an update before it, for all tests of power loss."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_emulation.demo.run import example_folder
from fleet_emulation.linux_devices.programs import find_program
from fleet_emulation.power_loss.agent import AgentSubject
from fleet_emulation.power_loss.workshop import make_agent_subject

#: Files there cost no disk its time; what is cut off here is a model's disk.
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session", name="agent_subject")
def _agent_subject(tmp_path_factory: pytest.TempPathFactory) -> AgentSubject:
    return make_agent_subject(tmp_path_factory.mktemp("power-loss"), example_folder())


@pytest.fixture(name="traced")
def _traced() -> None:
    if find_program("strace") is None:
        pytest.skip("the program 'strace' is not installed")


@pytest.fixture(name="scratch")
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name).resolve()
