# SPDX-License-Identifier: Apache-2.0
"""Which compiler is taken, and what is said where there is none."""

from pathlib import Path

import pytest

from edgefleet.boards import toolchains
from edgefleet.boards.images import build
from edgefleet.boards.toolchains import Kind, Toolchain, family_of, find_toolchain, host_compiler
from edgefleet.contracts.errors import ExitStatus, IncompatibleError, MissingProgramError
from edgefleet.contracts.profile import Cpu, kernel_set
from firmware_profiles.loader import list_profiles, load_profile

M4 = Cpu(architecture="armv7e-m", core="cortex-m4", features=("dsp", "fpv4-sp"))
RV32 = Cpu(architecture="rv32imac", core="rv32")
#: Microcontrollers whose memory map a linker can use (an NPU's tools need another).
BOARDS = [profile.id for profile in list_profiles() if "code" in {region.name for region in profile.memory.regions}]


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchains, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("cpu", "prefer", "message", "hint"),
    [
        (
            M4,
            None,
            "there is no compiler for the board: neither 'arm-none-eabi-gcc' nor zig is installed",
            "run: apt-get install gcc-arm-none-eabi, or: pip install 'edgefleet[mcu]'",
        ),
        (
            RV32,
            "gcc",
            "'riscv64-unknown-elf-gcc' is not installed",
            "run: apt-get install gcc-riscv64-unknown-elf",
        ),
        (M4, "zig", "the compiler zig is not installed", "run: pip install 'edgefleet[mcu]'"),
    ],
)
def test_a_missing_compiler_is_one_sentence_that_names_the_package(
    bare_machine: None, cpu: Cpu, prefer: Kind | None, message: str, hint: str
) -> None:
    with pytest.raises(MissingProgramError) as caught:
        find_toolchain(cpu, prefer=prefer)
    assert (caught.value.message, caught.value.hint, caught.value.exit_status) == (message, hint, ExitStatus.FAILED)


def test_a_machine_without_a_compiler_for_itself_is_told_what_to_install(bare_machine: None) -> None:
    with pytest.raises(MissingProgramError) as caught:
        host_compiler()
    assert caught.value.message == (
        "there is no C compiler for this machine: none of gcc, cc, clang and zig is installed"
    )


def test_a_compiler_says_its_version_and_kind(compiler: Kind) -> None:
    toolchain = find_toolchain(M4, prefer=compiler)
    assert (toolchain.kind, toolchain.family) == (compiler, "arm")
    assert toolchain.version[0].isdigit()
    assert toolchain.name == f"{compiler} {toolchain.version}"


def test_zig_is_taken_where_gcc_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_toolchain(RV32).kind == "zig"


def test_a_computer_is_no_microcontroller() -> None:
    with pytest.raises(IncompatibleError, match=r"^'x86_64' is no microcontroller's architecture: got core 'any'$"):
        family_of(Cpu(architecture="x86_64", core="any"))


@pytest.mark.parametrize("profile", BOARDS)
def test_each_microcontroller_profile_compiles_and_links(profile: str, tmp_path: Path) -> None:
    _compiles(profile, find_toolchain(load_profile(profile).cpu), tmp_path)
    assert len(BOARDS) >= 20


# zig makes its run-time library for each kind of processor once, which takes it some seconds
@pytest.mark.parametrize("profile", ["raspberry-pi-pico", "mps2-an505", "ek-ra8m1", "esp32-c3-devkitm"])
def test_zig_knows_each_family_of_processors(profile: str, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    _compiles(profile, find_toolchain(load_profile(profile).cpu, prefer="zig"), tmp_path)


def _compiles(profile: str, toolchain: Toolchain, folder: Path) -> None:
    board = load_profile(profile)
    source = folder / "small.c"
    source.write_text("float scale = 3; int main(void) { return (int)(scale * 2) - 6; }\n")
    image = build([source], profile=board, toolchain=toolchain, folder=folder)
    assert 100 < image.code_bytes <= image.flash_bytes < 5_000
    assert kernel_set(board) == board.runtime.kernels.removeprefix("edgefleet-")
