# SPDX-License-Identifier: Apache-2.0
"""The portable kernels, compiled once for all tests."""

import shutil
from pathlib import Path

import pytest

from benchmarks.operator_cases.host_kernels import HostKernels, build


@pytest.fixture(scope="session")
def kernel_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels as a shared library of this machine."""
    _require_compiler()
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def host_kernels(kernel_library: Path) -> HostKernels:
    """The kernels, loaded."""
    return HostKernels(kernel_library)


@pytest.fixture(scope="session")
def sanitized_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels under address and undefined-behaviour sanitizers: for a process of its own."""
    _require_compiler()
    return build(tmp_path_factory.mktemp("sanitized-kernels"), sanitized=True)


def _require_compiler() -> None:
    if shutil.which("cc") is None:
        pytest.skip("a C compiler is missing: install gcc")


#: Modules whose tests build and boot boards, whatever else they look at.
_ON_BOARDS = {"test_kernels_on_boards.py"}
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
