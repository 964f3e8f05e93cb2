# SPDX-License-Identifier: Apache-2.0
"""Tests of emulated boards (``pytest.mark.boards``) are skipped where boards cannot be built or booted."""

import shutil

import pytest

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
