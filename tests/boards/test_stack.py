# SPDX-License-Identifier: Apache-2.0
"""The bound on the stack: never under what is measured, little over it, and refused where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet.boards.emulator import boot
from edgefleet.boards.images import Image
from edgefleet.boards.stack import stack_bound
from edgefleet.boards.toolchains import Kind, find_toolchain
from edgefleet.contracts.errors import BuildError, MissingProgramError
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile

pytestmark = pytest.mark.boards

BuildProgram = Callable[..., Image]
M4 = load_profile("mps2-an386")
#: Branches that take different amounts, a deep call behind an early return, and a tail call.
NESTED = """
#define TAKE(bytes) volatile uint8_t taken[bytes]; for (int i = 0; i < bytes; i++) taken[i] = (uint8_t)n
__attribute__((noinline)) static int leaf(int n) { TAKE(200); return taken[n & 127]; }
__attribute__((noinline)) static int other(int n) { TAKE(72); return taken[n & 63] + leaf(n + 1); }
__attribute__((noinline)) static int branching(int n) {
    if (n == 1000) return 5;
    if (n & 1) { TAKE(40); return other(n) + taken[3]; }
    return leaf(n);
}
int main(void) {
    volatile int n = 7;
    BOARD_RUN_BEGIN();
    const int sum = branching(n) + branching(n + 1);
    BOARD_RUN_END();
    return sum == -1;
}
"""


@pytest.mark.usefixtures("emulators")
def test_the_bound_is_at_least_the_measured_depth_and_at_most_64_bytes_more(
    board_profile: Profile, compiler: Kind, program: BuildProgram, tmp_path: Path
) -> None:
    image = program(NESTED, board_profile, compiler)
    with boot(image, board_profile, folder=tmp_path / "board", counting=True) as board:
        assert board.wait() == 0
        measured = board.counts().runs[0].total.stack_bytes
    bound = stack_bound(image, find_toolchain(board_profile.cpu, prefer=compiler))
    assert 0 <= bound.bytes - measured <= 64
    assert measured >= 312
    assert [name for name, _ in bound.path[:2]] == ["board_start", "main"]
    assert sum(taken for _, taken in bound.path) == bound.bytes


def refusal(image: Image, compiler: Kind) -> str:
    with pytest.raises(BuildError) as caught:
        stack_bound(image, find_toolchain(M4.cpu, prefer=compiler))
    return caught.value.message


def test_recursion_has_no_bound(program: BuildProgram, compiler: Kind) -> None:
    text = """
        __attribute__((noinline)) int odd(int n);
        __attribute__((noinline)) int even(int n) { volatile int kept = n; return n ? odd(n - 1) + kept : 1; }
        __attribute__((noinline)) int odd(int n) { volatile int kept = n; return n ? even(n - 1) + kept : 0; }
        int main(void) { volatile int n = 4; return even(n); }
    """
    message = refusal(program(text, M4, compiler), compiler)
    assert message in {
        "the stack has no bound: even calls odd calls even: recursion",
        "the stack has no bound: odd calls even calls odd: recursion",
        "the stack has no bound: even calls even: recursion",
    }


def test_an_unknown_pointer_has_no_bound(program: BuildProgram, compiler: Kind) -> None:
    text = """
        __attribute__((noinline)) static int chosen(int n) { return n + 1; }
        int (*volatile pointer)(int) = chosen;
        __attribute__((noinline)) int through(int n) { return pointer(n) + 1; }
        int main(void) { return through(1); }
    """
    image = program(text, M4, compiler)
    assert refusal(image, compiler) == (
        "the stack has no bound: through calls through a pointer, and nothing says what that can be"
    )
    toolchain = find_toolchain(M4.cpu, prefer=compiler)
    known = stack_bound(image, toolchain, pointers={"through": ("chosen",)})
    assert 0 < known.bytes < 64
    with pytest.raises(BuildError) as caught:
        stack_bound(image, toolchain, pointers={"through": ("no_*",)})
    assert caught.value.message == (
        "the stack has no bound: through calls through a pointer, and none of no_* is in the image"
    )


def test_a_frame_without_a_constant_size_has_no_bound(program: BuildProgram, compiler: Kind) -> None:
    text = """
        __attribute__((noinline)) int taking(int n) { volatile char taken[n]; taken[n - 1] = 1; return taken[n - 1]; }
        int main(void) { volatile int n = 40; return taking(n); }
    """
    message = refusal(program(text, M4, compiler), compiler)
    assert message.startswith("the stack has no bound: taking moves its stack by what is no constant (")


def test_functions_of_one_name_in_two_files_are_told_apart(program: BuildProgram, tmp_path: Path) -> None:
    other = tmp_path / "other.c"
    other.write_text(
        "__attribute__((noinline)) static int same(int n) { volatile char a[300]; a[n] = 1; return a[n]; }\n"
        "int deep(int n) { return same(n) + 1; }\n"
    )
    text = f"""
        #include "{other}"
        static int (*const again)(int) = deep;
        int main(void) {{ return again(2); }}
    """
    image = program(text, M4, "gcc")
    assert stack_bound(image, find_toolchain(M4.cpu)).bytes >= 300


@pytest.mark.parametrize(("kind", "why"), [("gcc", ""), ("zig", " (zig brings no disassembler)")])
def test_a_missing_disassembler_is_one_sentence(
    program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, why: str
) -> None:
    image, toolchain = program("int main(void) { return 0; }", M4, kind), find_toolchain(M4.cpu, prefer=kind)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError) as caught:
        stack_bound(image, toolchain)
    assert caught.value.message == (
        f"the stack's bound is read from machine code by 'arm-none-eabi-objdump', which is not installed{why}"
    )
    assert caught.value.hint == "run: apt-get install binutils-arm-none-eabi"
