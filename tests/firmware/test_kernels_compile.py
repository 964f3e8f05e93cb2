# SPDX-License-Identifier: Apache-2.0
"""Kernels compile as others build them: at any level of optimisation, hot code in a section of its own."""

import subprocess
from pathlib import Path

import pytest

from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.profile import kernel_set
from firmware_profiles.loader import load_profile

KERNELS = Path(__file__).resolve().parents[2] / "firmware" / "kernels"
pytestmark = pytest.mark.boards
_BOARDS = ("mps2-an386", "mps3-an547")


def _compiled(board: str, level: str, folder: Path, *options: str) -> dict[str, Path]:
    """Return the objects of a board's kernels, portable ones included, by the names of their sources."""
    profile = load_profile(board)
    toolchain = find_toolchain(profile.cpu, prefer="gcc")
    flags = (*toolchain.flags(profile.cpu), level, f"-I{KERNELS / 'include'}", *options)
    made = {}
    for kernels in sorted({"portable", kernel_set(profile)}):
        for source in sorted(each for each in (KERNELS / kernels).iterdir() if each.suffix in (".c", ".S")):
            into = folder / f"{kernels}-{source.name}.o"
            warned = subprocess.run(
                [*toolchain.command, *flags, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", source, "-o", into],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (warned.returncode, warned.stderr) == (0, ""), f"{source} {level}"
            made[f"{kernels}/{source.name}"] = into
    return made


@pytest.mark.parametrize("board", _BOARDS)
@pytest.mark.parametrize("level", ["-O0", "-Os"])
def test_kernels_compile_with_any_optimisation(board: str, level: str, tmp_path: Path) -> None:
    assert _compiled(board, level, tmp_path, "-fno-omit-frame-pointer")


@pytest.mark.parametrize("board", _BOARDS)
def test_one_section_holds_all_hot_code(board: str, tmp_path: Path) -> None:
    made = _compiled(board, "-O2", tmp_path, "-DEF_FAST_CODE_SECTION=.itcm", "-fno-function-sections")
    for name, path in made.items():
        said = subprocess.run(["arm-none-eabi-size", "-A", path], capture_output=True, text=True, check=True).stdout
        sizes = {line.split()[0]: int(line.split()[1]) for line in said.splitlines() if line.startswith(".")}
        assert sizes[".text"] == 0, name
        assert sizes[".itcm"] > 0, name
