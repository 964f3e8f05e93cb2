# SPDX-License-Identifier: Apache-2.0
"""Images: sizes, refusals, and a cache that is never stale."""

import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.boards import images
from edgefleet.boards.elf import read_elf
from edgefleet.boards.images import build
from edgefleet.boards.toolchains import Kind, find_toolchain
from edgefleet.contracts.errors import BudgetError, BuildError, ExitStatus, ProfileError
from edgefleet.contracts.profile import Memory, Profile
from firmware_profiles.loader import load_profile

pytestmark = pytest.mark.boards

BuildProgram = Callable[..., images.Image]
M4 = load_profile("mps2-an386")
SMALL = load_profile("nucleo-f103rb")
HELLO = "int main(void) { return 0; }"


def test_sizes_are_what_the_compilers_own_program_says(program: BuildProgram) -> None:
    image = program("int table[100] = {1}; int zeros[50]; int main(void) { return table[zeros[3]]; }", M4, "gcc")
    size = shutil.which("arm-none-eabi-size")
    assert size is not None
    told = subprocess.run([size, image.elf], capture_output=True, text=True, check=True).stdout.splitlines()[1].split()
    text, data, bss = (int(word) for word in told[:3])
    stack = image.symbols["board_stack_top"] - image.symbols["board_stack_low"]
    assert (image.flash_bytes, image.ram_bytes) == (text + data, data + bss - stack)
    assert stack == images.STACK_BYTES


def test_an_image_says_how_it_was_built(program: BuildProgram, compiler: Kind) -> None:
    key = program(HELLO, M4, compiler, defines={"B": "2", "A": "1"}).key
    assert (key.compiler, key.profile) == (compiler, "mps2-an386")
    assert "-O2" in key.flags
    assert [flag for flag in key.flags if flag in {"-DA=1", "-DB=2"}] == ["-DA=1", "-DB=2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "const char much[200000] = {1}; int main(int n) { return much[n]; }",
            "the image does not fit nucleo-f103rb: it needs 200,### bytes of 'code', which has 131,072",
        ),
        (
            "char much[20000]; int main(int n) { return much[n]; }",
            "the image does not fit nucleo-f103rb: it needs 24,### bytes of 'data', which has 20,480",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(text: str, message: str, tmp_path: Path, compiler: Kind) -> None:
    source = tmp_path / "large.c"
    source.write_text(text)
    with pytest.raises(BudgetError) as caught:
        build([source], profile=SMALL, toolchain=find_toolchain(SMALL.cpu, prefer=compiler), folder=tmp_path)
    assert re.sub(r",\d{3} bytes", ",### bytes", caught.value.message) == message
    assert caught.value.exit_status == ExitStatus.REFUSED


def test_a_source_that_does_not_compile_is_one_sentence(program: BuildProgram, compiler: Kind) -> None:
    with pytest.raises(BuildError) as caught:
        program("int main(void) { return nothing; }", M4, compiler)
    assert re.match(
        rf"program.c does not compile with {compiler} [\d.]+: .*error: .*'nothing'",
        caught.value.message.replace("‘", "'").replace("’", "'"),
    )
    assert "\n" not in caught.value.message


def test_a_name_that_is_missing_is_one_sentence(program: BuildProgram, compiler: Kind) -> None:
    with pytest.raises(BuildError) as caught:
        program("int elsewhere(void); int main(void) { return elsewhere(); }", M4, compiler)
    assert re.match(rf"the image does not link with {compiler} [\d.]+: .*undefined .*elsewhere", caught.value.message)


def test_a_profile_without_a_memory_map_is_refused(program: BuildProgram) -> None:
    board = Profile(
        format_version=1,
        id="bare",
        title="bare",
        cpu=M4.cpu,
        memory=Memory(ram_bytes=1000),
        runtime=M4.runtime,
        precisions=("int8",),
    )
    with pytest.raises(
        ProfileError, match=r"^memory\.regions of 'bare' has no 'code': a linker needs 'code' and 'data'$"
    ):
        program(HELLO, board)


def test_building_again_runs_no_compiler(
    program: BuildProgram, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = program(HELLO, M4).elf.read_bytes()
    monkeypatch.setattr(images, "ask", lambda *arguments, **options: pytest.fail("a compiler was called"))
    assert program(HELLO, M4).elf.read_bytes() == first


@pytest.mark.parametrize("include", ['#include "answer.h"', "#include ANSWER_HEADER"])
def test_a_header_that_changed_is_seen(include: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, header = tmp_path / "main.c", tmp_path / "answer.h"
    source.write_text(f"{include}\nint main(void) {{ return ANSWER; }}")

    def built(answer: int) -> bytes:
        header.write_text(f"#define ANSWER {answer}\n")
        toolchain, defines = find_toolchain(M4.cpu), {"ANSWER_HEADER": '"answer.h"'}
        return build([source], profile=M4, toolchain=toolchain, folder=tmp_path, defines=defines).elf.read_bytes()

    one, two = built(1), built(2)
    assert one != two
    assert built(1) == one


def test_a_definition_that_a_source_does_not_use_compiles_nothing_anew(
    program: BuildProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for value in ("1", "2"):
        program("int main(void) { return USED; }", M4, defines={"USED": value, "UNUSED": value})
    names = [path.name for path in (tmp_path / "cache/edgefleet/boards/objects").iterdir()]
    assert len(names) == len(images._BOARD_SOURCES) + 2


def _build_there(folder: Path) -> bytes:
    source = folder / "main.c"
    folder.mkdir()
    source.write_text(HELLO)
    return build([source], profile=M4, toolchain=find_toolchain(M4.cpu), folder=folder).elf.read_bytes()


def test_many_processes_build_into_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ProcessPoolExecutor(4) as pool:
        built = list(pool.map(_build_there, [tmp_path / str(number) for number in range(4)]))
    assert len(set(built)) == 1
    assert not list((tmp_path / "cache").rglob(".*"))


@given(data=st.binary(max_size=200), cut=st.integers(0, 400))
def test_a_damaged_elf_file_is_one_sentence(data: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.elf"
    path.write_bytes((b"\x7fELF\x01\x01" + data)[:cut])
    with pytest.raises(BuildError, match=r"^'damaged\.elf' is no whole 32-bit ELF file$"):
        read_elf(path)
