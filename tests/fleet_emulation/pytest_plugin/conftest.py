# SPDX-License-Identifier: Apache-2.0
"""Here the fixture ``edgefleet`` is the plugin's; the tests around use the name for the command."""

import shutil
from pathlib import Path

import pytest

from fleet_emulation.pytest_plugin import edgefleet

__all__ = ["edgefleet"]


#: Modules whose tests build and boot boards, whatever else they look at.
_ON_BOARDS = {"test_plugin.py", "test_fleets.py", "test_template.py"}
_PROGRAMS = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "gcc": "gcc",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs boards where they cannot be built or booted, and say what is missing."""
    missing = sorted(package for program, package in _PROGRAMS.items() if shutil.which(program) is None)
    if not missing:
        return
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name in _ON_BOARDS:
            item.add_marker(pytest.mark.skip(reason=f"missing: apt-get install {' '.join(missing)}"))
