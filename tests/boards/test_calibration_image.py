# SPDX-License-Identifier: Apache-2.0
"""The benchmark's image: it builds for every board, executes what its cases say, and talks as the reader expects."""

import shutil
from pathlib import Path

import pytest

from edgefleet.boards.calibration import CASES, TURNS, cases_header, gather
from edgefleet.boards.calibration_image import build_calibration
from edgefleet.boards.emulator import boot
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import build
from edgefleet.boards.serial_port import open_port
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.errors import InputError, UnreachableError
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import list_profiles, load_profile

PACKAGES = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
            "qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}  # fmt: skip
MISSING = [f"{name} (apt-get install {package})" for name, package in PACKAGES.items() if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

#: Runs each case once and twice as long, with the counter's markers around.
COUNTED = """
#include "board.h"
#define main calibration_main
#include "calibration.c"
#undef main
static __attribute__((noinline)) void counted(void (*run)(uint32_t), uint32_t turns) {
    BOARD_RUN_BEGIN();
    run(turns);
    BOARD_RUN_END();
}
int main(void) {
    for (uint32_t i = 0; i < EF_CASE_COUNT; i++) {
        counted(cases[i].run, EF_TURNS);
        counted(cases[i].run, 2 * EF_TURNS);
    }
    return calibration_main == 0;
}
"""
UART = """
#include <stdint.h>
void uart_init(void) {}
void uart_write(uint8_t byte) { *(volatile uint8_t *)0x40000000 = byte; }
"""


def microcontrollers() -> list[Profile]:
    """Boards with a memory map that a linker takes."""
    return [profile for profile in list_profiles() if {one.name for one in profile.memory.regions} >= {"code", "data"}]


@pytest.mark.parametrize("name", ["mps2-an385", "mps2-an386", "mps3-an547", "rv32-virt"])
def test_a_board_executes_exactly_what_the_cases_say(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    (tmp_path / "calibration_cases.h").write_text(cases_header(profile.cpu))
    (tmp_path / "counted.c").write_text(COUNTED)
    image = build(
        [tmp_path / "counted.c"], profile=profile, toolchain=find_toolchain(profile.cpu), folder=tmp_path,
        includes=(tmp_path, firmware_folder() / "boards"),
    )  # fmt: skip
    with boot(image, profile, folder=tmp_path / "board", counting=True) as board:
        assert board.wait() == 0
        runs = [run.total for run in board.counts().runs]
    for case, once, twice in zip(CASES, runs[::2], runs[1::2], strict=True):
        said = case.measured(1)
        counted = (
            twice.instructions - once.instructions, twice.loads - once.loads, twice.stores - once.stores
        )  # fmt: skip
        assert counted == (said.instructions, said.loads, said.stores), f"{case.name}, {TURNS} turns"


def test_an_emulator_s_counter_stands_still_and_says_so(tmp_path: Path) -> None:
    profile = load_profile("mps2-an386")
    image = build_calibration(profile, tmp_path)
    with (
        boot(image, profile, folder=tmp_path / "board", uarts=(0,), uart_kind="pty") as board,
        open_port(Path(str(board.uart(0))), baud=115200) as port,
        pytest.raises(UnreachableError) as failed,
    ):
        gather(port, timeout_s=20.0)
    assert failed.value.message == (
        f"the board at '{port.name}' says that 'additions' takes 0 cycles: its cycle counter stands still"
    )


def test_the_image_builds_for_every_board_that_a_linker_knows(tmp_path: Path) -> None:
    uart = tmp_path / "uart_board.c"
    uart.write_text(UART)
    boards = [profile for profile in microcontrollers() if profile.execution == "compiled-only"]
    assert len(boards) >= 10
    for profile in boards:
        image = build_calibration(profile, tmp_path / profile.id, uart=uart)
        assert image.elf.is_file(), profile.id


def test_a_board_whose_port_nobody_knows_needs_a_driver(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        build_calibration(load_profile("nucleo-l4r5zi"), tmp_path)
    assert refused.value.message == "nothing here knows the serial port of 'nucleo-l4r5zi'"
