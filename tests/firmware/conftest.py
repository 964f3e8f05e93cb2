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
