# SPDX-License-Identifier: Apache-2.0
"""Boards in QEMU: what they say and write, how they end, and that nothing is left of them."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet.boards.emulator import Board, UartKind, boot, start, wait_all
from edgefleet.boards.images import Image
from edgefleet.boards.qemu import Qemu
from edgefleet.boards.toolchains import Kind
from edgefleet.contracts.errors import BoardError, ExitStatus, IncompatibleError, MissingProgramError
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile

pytestmark = pytest.mark.usefixtures("emulators")

BuildProgram = Callable[..., Image]
M3, RV32 = load_profile("mps2-an385"), load_profile("rv32-virt")
COPY = """
int main(void) {
    char text[8];
    board_print("hello\\n");
    const int in = board_open("in", BOARD_READ), out = board_open("out", BOARD_WRITE);
    const uint32_t left = board_read(in, text, sizeof text);
    board_write(out, text, sizeof text - left);
    return board_open("none", BOARD_READ) == -1 ? (int)left : 50;
}
"""
ECHO = """
#include "uart.h"
int main(void) {
    uart_init();
    for (;;) {
        const uint8_t byte = uart_wait();
        if (byte == 'q') return 3;
        uart_write((uint8_t)(byte + 1));
    }
}
"""
HANG = 'int main(void) { for (;;) __asm__ volatile(""); }'


def test_a_board_reads_and_writes_files_prints_and_ends_with_a_code(
    board_profile: Profile, compiler: Kind, program: BuildProgram, tmp_path: Path
) -> None:
    folder = tmp_path / "board"
    folder.mkdir()
    (folder / "in").write_bytes(b"12345")
    with boot(program(COPY, board_profile, compiler), board_profile, folder=folder) as board:
        assert board.wait() == 3
    assert board.output == "hello\n"
    assert (folder / "out").read_bytes() == b"12345"
    assert not board.alive


@pytest.mark.parametrize("kind", ["unix", "tcp", "pty"])
def test_a_serial_port_is_reached_from_this_machine(
    kind: UartKind, board_profile: Profile, program: BuildProgram, tmp_path: Path
) -> None:
    folder = tmp_path / ("long-" * 30)
    image = program(ECHO, board_profile)
    with boot(image, board_profile, folder=folder, uarts=(0,), uart_kind=kind) as board:
        handle = _opened(board, kind)
        try:
            # a pty drops what comes before the board listens, so the first byte may have to be sent again
            got = [next(filter(None, (_answer(handle, byte) for _ in range(20)))) for byte in (b"a", b"b", b"c")]
            os.write(handle, b"q")
            assert (got, board.wait()) == ([b"b", b"c", b"d"], 3)
        finally:
            os.close(handle)


def _opened(board: Board, kind: UartKind) -> int:
    if kind != "pty":
        return board.connect(0).detach()
    handle = os.open(board.uart(0), os.O_RDWR | os.O_NOCTTY)  # type: ignore[arg-type]
    tty.setraw(handle)
    return handle


def _answer(handle: int, byte: bytes) -> bytes:
    os.write(handle, byte)
    return os.read(handle, 1) if select.select([handle], [], [], 3)[0] else b""


def test_an_idle_board_takes_no_processor_time(board_profile: Profile, program: BuildProgram, tmp_path: Path) -> None:
    with boot(program(ECHO, board_profile), board_profile, folder=tmp_path, uarts=(0,)) as board:
        link = board.connect(0)
        link.sendall(b"a")
        assert link.recv(1) == b"b"
        before = _processor_ticks(board.pid)
        assert select.select([link], [], [], 0.5)[0] == []
        assert _processor_ticks(board.pid) - before <= 10  # of 50
        link.close()


def _processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("profile", [M3, RV32], ids=lambda profile: profile.id)
def test_a_board_that_hangs_is_stopped_and_said_so(profile: Profile, program: BuildProgram, tmp_path: Path) -> None:
    image = program('int main(void) { board_print("on my way\\n"); for (;;) __asm__ volatile(""); }', profile)
    with boot(image, profile, folder=tmp_path, timeout_s=1) as board, pytest.raises(BoardError) as caught:
        board.wait()
    assert caught.value.message == f"the board '{profile.id}' did not end in 1 s and was stopped; it said 'on my way'"
    assert caught.value.exit_status == ExitStatus.FAILED
    assert not Path(f"/proc/{board.pid}").exists()


@pytest.mark.parametrize(
    "text",
    [
        "int main(void) { return *(volatile int *)0x7FFFFFF0; }",
        "int deep(volatile int *above) { volatile int a[64]; a[0] = *above; return deep(a) + a[1]; }\n"
        "int main(void) { volatile int top = 0; return deep(&top); }",
    ],
    ids=["wild pointer", "stack overflow"],
)
def test_a_fault_is_one_sentence(text: str, program: BuildProgram, tmp_path: Path) -> None:
    with boot(program(text, M3), M3, folder=tmp_path) as board, pytest.raises(BoardError) as caught:
        board.wait()
    assert caught.value.message == "the processor of the board 'mps2-an385' faulted"


def test_a_trap_of_risc_v_is_one_sentence(program: BuildProgram, tmp_path: Path) -> None:
    text = 'int main(void) { __asm__ volatile(".word 0"); return 0; }'
    with boot(program(text, RV32), RV32, folder=tmp_path) as board, pytest.raises(BoardError) as caught:
        board.wait()
    assert caught.value.message == "the processor of the board 'rv32-virt' faulted"


def test_nonsense_is_shown_as_far_as_it_can_be(program: BuildProgram, tmp_path: Path) -> None:
    text = 'int main(void) { board_print("\\xff\\x01\\xfe"); return *(volatile int *)0x7FFFFFF0; }'
    with boot(program(text, M3), M3, folder=tmp_path) as board, pytest.raises(BoardError) as caught:
        board.wait()
    assert caught.value.message == "the processor of the board 'mps2-an385' faulted; it said '\ufffd\\x01\ufffd'"


def test_a_board_that_writes_without_end_does_not_fill_the_disk(
    program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefleet.boards.emulator._MOST_FILE_BYTES", 1 << 20)
    text = 'int main(void) { for (;;) board_print("0123456789012345678901234567890123456789"); }'
    image = program(text, M3)
    with boot(image, M3, folder=tmp_path, timeout_s=2) as board, pytest.raises(BoardError, match="did not end in 2 s"):
        board.wait()
    assert (tmp_path / "console.txt").stat().st_size <= 1 << 20


def test_a_missing_emulator_is_one_sentence(
    program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = program("int main(void) { return 0; }", RV32)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError) as caught:
        start(image, RV32, folder=tmp_path / "board")
    assert caught.value.message == "the emulator 'qemu-system-riscv32' is not installed"
    assert caught.value.hint == "run: apt-get install qemu-system-misc"


def test_another_folder_of_emulators_comes_first(
    program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = program("int main(void) { return 0; }", M3)
    monkeypatch.setenv("EDGEFLEET_QEMU_DIR", str(tmp_path))
    with pytest.raises(
        MissingProgramError, match=r"^the emulator 'qemu-system-arm' is not installed in .*EDGEFLEET_QEMU_DIR"
    ):
        start(image, M3, folder=tmp_path / "board")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo QEMU emulator version 5.2.0", "'{0}' is QEMU 5.2.0"),
        ("exit 1", "'{0}' does not say which QEMU it is: it ended with status 1 and said nothing"),
    ],
)
def test_an_emulator_that_is_too_old_or_none_is_one_sentence(
    program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    image = program("int main(void) { return 0; }", M3)
    emulator = tmp_path / "qemu-system-arm"
    emulator.write_text(f"#!/bin/sh\n{script}\n")
    emulator.chmod(0o755)
    monkeypatch.setenv("EDGEFLEET_QEMU_DIR", str(tmp_path))
    with pytest.raises(MissingProgramError) as caught:
        start(image, M3, folder=tmp_path / "board")
    assert caught.value.message == message.format(emulator)
    assert caught.value.hint == "install QEMU 7.2 or later"


def test_a_board_that_qemu_does_not_have_is_refused(program: BuildProgram, tmp_path: Path) -> None:
    profile = load_profile("nucleo-f103rb")
    with pytest.raises(IncompatibleError, match=r"^QEMU has no machine for 'nucleo-f103rb'"):
        start(program("int main(void) { return 0; }", profile), profile, folder=tmp_path)


@pytest.mark.parametrize(("version", "api"), [((7, 2, 22), 1), ((8, 2, 0), 1), ((9, 0, 0), 2), ((10, 0, 2), 2)])
def test_the_plugins_interface_follows_from_the_release(version: tuple[int, int, int], api: int) -> None:
    assert Qemu(Path("qemu"), version).plugin_api == api


def test_many_boards_are_up_at_once_and_nothing_is_left(program: BuildProgram, tmp_path: Path) -> None:
    image = program(ECHO, M3)
    boards = [start(image, M3, folder=tmp_path / str(number), uarts=(0,)) for number in range(20)]
    try:
        links = [board.connect(0, limit_s=60) for board in boards]
        for link in links:
            link.sendall(b"a")
        assert [link.recv(1) for link in links] == [b"b"] * 20
        assert all(board.alive for board in boards)
        for link in links:
            link.sendall(b"q")
        wait_all(boards)
        assert [board.exit_code() for board in boards] == [3] * 20
        for link in links:
            link.close()
    finally:
        for board in boards:
            board.stop()
    assert not [board.pid for board in boards if Path(f"/proc/{board.pid}").exists()]


def test_one_of_many_that_hangs_is_named_and_the_others_go_on(program: BuildProgram, tmp_path: Path) -> None:
    hung = start(program(HANG, RV32), RV32, folder=tmp_path / "hung", timeout_s=0.5)
    idle = start(program(ECHO, M3), M3, folder=tmp_path / "idle", timeout_s=None)
    try:
        with pytest.raises(BoardError, match=r"^the board 'rv32-virt' did not end in 0\.5 s and was stopped$"):
            wait_all([idle, hung])
        assert (hung.alive, idle.alive) == (False, True)
    finally:
        hung.stop()
        idle.stop()


def test_boards_die_with_a_parent_that_is_killed(program: BuildProgram, tmp_path: Path) -> None:
    image = program(HANG, M3)
    code = """
        import sys, time
        from pathlib import Path
        from edgefleet.boards.emulator import start
        from edgefleet.boards.images import BuildKey, Image
        from firmware_profiles.loader import load_profile
        image = Image(Path(sys.argv[1]), 0, 0, 0, BuildKey("", "", (), ""))
        boards = [start(image, load_profile("mps2-an385"), folder=Path(sys.argv[2]) / str(n)) for n in range(3)]
        print(*(board.pid for board in boards), flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(image.elf), str(tmp_path / "boards")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        handles = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "QEMU outlived its parent"
        os.close(handle)
    assert len(handles) == 3
