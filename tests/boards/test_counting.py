# SPDX-License-Identifier: Apache-2.0
"""Counts are exact: known code has known counts, and the same ones every time."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.boards import toolchains
from edgefleet.boards.counting import CountLog, Counts, RunCounts, counter_plugin, parse_counts
from edgefleet.boards.emulator import boot
from edgefleet.boards.images import Image
from edgefleet.boards.qemu import Qemu
from edgefleet.boards.toolchains import Kind
from edgefleet.contracts.errors import BoardError, MissingProgramError
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile

pytestmark = pytest.mark.boards

BuildProgram = Callable[..., Image]
M4, M55, RV32 = (load_profile(name) for name in ("mps2-an386", "mps3-an547", "rv32-virt"))

#: Between markers: 10 x 3 instructions and the loop's; each known by its mnemonic.
ARM = """
uint32_t words[8];
__attribute__((naked, noinline)) void known(uint32_t *at) {
    __asm__ volatile(
        "push {r4, r5, lr}\\n"
        "ldr r1, [r0]\\n ldrd r2, r3, [r0, #8]\\n ldm r0, {r1, r2, r3, r4, r5}\\n"
        "str r1, [r0]\\n strb r1, [r0, #4]\\n strd r2, r3, [r0, #8]\\n"
        "sub sp, #40\\n str r1, [sp]\\n add sp, #40\\n"
        "pop {r4, r5, pc}\\n");
}
int main(void) {
    for (int i = 0; i < 3; i++) {
        BOARD_RUN_BEGIN();
        __asm__ volatile("mov r0, %0\\n bl known\\n" : : "r"(words) : "r0", "r1", "r2", "r3", "lr", "memory");
        BOARD_LAYER_END();
        __asm__ volatile("nop\\n nop\\n");
        BOARD_LAYER_END();
        BOARD_RUN_END();
    }
    return 0;
}
"""


def run(image: Image, profile: Profile, folder: Path) -> CountLog:
    with boot(image, profile, folder=folder, counting=True) as board:
        assert board.wait() == 0
        return board.counts()


@pytest.mark.usefixtures("emulators")
def test_known_code_has_known_counts(program: BuildProgram, compiler: Kind, tmp_path: Path) -> None:
    log = run(program(ARM, M4, compiler), M4, tmp_path / "board")
    first, *others = log.runs
    assert log == run(program(ARM, M4, compiler), M4, tmp_path / "again")
    assert [run.total.loads for run in others] == [first.total.loads] * 2  # a loop unrolled differs by an address
    layer, rest = first.layers
    # mov, bl, the eleven of known, the marker's store, and no more than two that make its address
    assert 14 <= layer.instructions <= 16
    assert (layer.loads, layer.stores) == (1 + 2 + 5 + 3, 3 + 1 + 1 + 2 + 1)
    assert (rest.loads, rest.stores, rest.stack_bytes) == (0, 0, 0)
    assert 3 <= rest.instructions <= 5
    assert first.total.instructions >= layer.instructions + rest.instructions
    assert (first.total.loads, first.total.stores) == (layer.loads, layer.stores)


@pytest.mark.usefixtures("emulators")
def test_the_stack_is_measured_from_its_top(program: BuildProgram, tmp_path: Path) -> None:
    text = """
        __attribute__((noinline)) void taking(void) { volatile int a[25]; a[0] = 1; }
        int main(void) {
            BOARD_RUN_BEGIN(); BOARD_INIT_END();
            BOARD_RUN_BEGIN(); taking(); BOARD_RUN_END();
            return 0;
        }
    """
    log = run(program(text, M4, "gcc"), M4, tmp_path / "board")
    assert log.init == Counts(log.init.instructions if log.init else 0, 0, 0, 0)
    # board_start and main save two registers each, taking writes the lowest of its 25 words
    assert log.runs[0].total.stack_bytes == 8 + 8 + 100
    assert log.runs[0].layers == ()


@pytest.mark.usefixtures("emulators")
def test_counts_are_the_same_in_every_run_and_release(
    board_profile: Profile, program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
        static uint8_t table[256];
        int main(void) {
            uint32_t sum = 1;
            BOARD_RUN_BEGIN();
            for (uint32_t i = 0; i < 20000; i++) {
                sum = sum * 1664525u + table[sum >> 24];
                if (sum & 1) table[i & 255] = (uint8_t)sum;
            }
            BOARD_LAYER_END();
            BOARD_RUN_END();
            return sum == 0;
        }
    """
    image = program(text, board_profile)
    logs = [run(image, board_profile, tmp_path / str(number)) for number in range(3)]
    if folder := os.environ.get("EDGEFLEET_OTHER_QEMU_DIR"):
        monkeypatch.setenv("EDGEFLEET_QEMU_DIR", folder)
        logs.append(run(image, board_profile, tmp_path / "other"))
    assert logs == logs[:1] * len(logs)
    assert logs[0].runs[0].total.instructions > 100_000


@pytest.mark.usefixtures("emulators")
def test_vectors_of_helium_are_counted_element_by_element(
    program: BuildProgram, compiler: Kind, tmp_path: Path
) -> None:
    text = """
        static int8_t from[16], to[16];
        int main(void) {
            BOARD_RUN_BEGIN();
            __asm__ volatile("vldrb.8 q0, [%0]\\n vstrb.8 q0, [%1]" : : "r"(from), "r"(to) : "q0", "memory");
            BOARD_RUN_END();
            return 0;
        }
    """
    total = run(program(text, M55, compiler), M55, tmp_path / "board").runs[0].total
    assert (total.loads, total.stores) == (16, 16)


def test_a_machine_without_a_compiler_cannot_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchains, "find_spec", lambda name: None)
    with pytest.raises(MissingProgramError, match=r"^there is no C compiler for this machine"):
        counter_plugin(Qemu(Path("qemu"), (7, 2, 0)))


def test_what_the_plugin_writes_is_read() -> None:
    text = "init 0 9 1 2 64\nlayer 0 5 1 1 8\nlayer 1 6 2 2 16\nrun 0 12 3 3 16\nrun 1 4 0 0 0\n"
    assert parse_counts(text) == CountLog(
        Counts(9, 1, 2, 64),
        (
            RunCounts(Counts(12, 3, 3, 16), (Counts(5, 1, 1, 8), Counts(6, 2, 2, 16))),
            RunCounts(Counts(4, 0, 0, 0), ()),
        ),
    )
    assert parse_counts("") == CountLog(None, ())


def test_a_damaged_line_is_one_sentence() -> None:
    with pytest.raises(BoardError) as caught:
        parse_counts("run 0 12 3 3 16\nrun 1 12\n")
    assert caught.value.message == "the instruction counter wrote a line that cannot be read: 'run 1 12'"


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BoardError):
        log = parse_counts(text)
        assert len(log.runs) <= len(text.splitlines())
