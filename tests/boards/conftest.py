# SPDX-License-Identifier: Apache-2.0
"""Boards, compilers and small programs for them."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgefleet.boards.images import Image, build
from edgefleet.boards.toolchains import Kind, find_toolchain
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile

#: Profile, and the processor it stands for.
BOARDS = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "rv32-virt")
COMPILERS: tuple[Kind, ...] = ("gcc", "zig")
BuildProgram = Callable[..., Image]


@pytest.fixture(params=BOARDS)
def board_profile(request: pytest.FixtureRequest) -> Profile:
    """Each emulated board in turn."""
    return load_profile(request.param)


@pytest.fixture(params=COMPILERS)
def compiler(request: pytest.FixtureRequest) -> Kind:
    """Each compiler in turn, where it is installed."""
    kind: Kind = request.param
    if kind == "zig" and find_spec("ziglang") is None and shutil.which("zig") is None:
        pytest.skip("zig is missing: pip install ziglang")
    if kind == "gcc" and None in {shutil.which("arm-none-eabi-gcc"), shutil.which("riscv64-unknown-elf-gcc")}:
        pytest.skip("GCC for boards is missing: apt-get install gcc-arm-none-eabi gcc-riscv64-unknown-elf")
    return kind


@pytest.fixture
def emulators() -> None:
    """What boots boards, or the test is skipped."""
    if None in {shutil.which("qemu-system-arm"), shutil.which("qemu-system-riscv32")}:
        pytest.skip("QEMU is missing: apt-get install qemu-system-arm qemu-system-misc")


@pytest.fixture
def program(tmp_path: Path) -> BuildProgram:
    """Build a program from its text: ``program(text, profile, compiler=None, **options)``."""

    def make(text: str, profile: Profile, compiler: Kind | None = None, **options: object) -> Image:
        source = tmp_path / "program.c"
        source.write_text(f'#include "board.h"\n{text}\n')
        toolchain = find_toolchain(profile.cpu, prefer=compiler)
        return build([source], profile=profile, toolchain=toolchain, folder=tmp_path / "image", **options)  # type: ignore[arg-type]

    return make
