# SPDX-License-Identifier: Apache-2.0
"""Generated preprocessing on an emulated board: outputs, and exact counts of each call."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.preprocessing_cases.case import Case, write_sources
from edgefleet.boards.counting import Counts
from edgefleet.boards.emulator import boot
from edgefleet.boards.images import build
from edgefleet.boards.toolchains import find_toolchain
from firmware_profiles.loader import load_profile

Array = npt.NDArray[Any]
_HEAD = """
#include "board.h"
static union { uint64_t aligned; uint8_t bytes[RAW_BYTES]; } raw;
static union { uint64_t aligned; uint8_t bytes[SCRATCH_BYTES]; } scratch;
static int8_t out[VALUES];
#define RUN(in_name, out_name, raw_bytes, values, call) do { \\
        int in = board_open(in_name, BOARD_READ), to = board_open(out_name, BOARD_WRITE); \\
        while (board_read(in, raw.bytes, raw_bytes) == 0) { \\
            BOARD_RUN_BEGIN(); call; BOARD_RUN_END(); \\
            board_write(to, out, values); \\
        } \\
    } while (0)
"""
_MOST_SCRATCH_BYTES = 65536


def run_on_board(
    cases: Sequence[Case], batches: Sequence[Array], *, board: str, folder: Path,
    compiler: Literal["gcc", "zig"] | None = None,
) -> list[tuple[Array, list[Counts]]]:  # fmt: skip
    """Run each case on its batch; return its outputs, shape (samples, values), and what each sample took."""
    profile = load_profile(board)
    sources = write_sources(cases, folder)
    (folder / "main.c").write_text(_main(cases))
    toolchain = find_toolchain(profile.cpu, prefer=compiler)
    image = build(
        [folder / "main.c", *sources], profile=profile, toolchain=toolchain, folder=folder, includes=(folder,)
    )
    files = folder / "board"
    files.mkdir()
    for number, batch in enumerate(batches):
        (files / f"in{number}").write_bytes(batch.tobytes())
    with boot(image, profile, folder=files, counting=True) as booted:
        if booted.wait() != 0:
            raise AssertionError(booted.output)
        runs = iter(booted.counts().runs)
    return [
        (np.frombuffer((files / f"out{number}").read_bytes(), np.int8).reshape(len(batch), -1),
         [next(runs).total for _ in batch])
        for number, batch in enumerate(batches)
    ]  # fmt: skip


def _main(cases: Sequence[Case]) -> str:
    includes = "".join(f'#include "m{number}_preprocess.h"\n' for number in range(len(cases)))
    runs = "".join(
        f'    RUN("in{number}", "out{number}", {case.raw_bytes}u, {math.prod(case.spec.shape)}u, '
        f"{_call(case, f'm{number}_preprocess')});\n"
        for number, case in enumerate(cases)
    )
    sizes = {
        "RAW_BYTES": max(case.raw_bytes for case in cases),
        "SCRATCH_BYTES": _MOST_SCRATCH_BYTES,
        "VALUES": max(math.prod(case.spec.shape) for case in cases),
    }
    defines = "".join(f"#define {name} {size}u\n" for name, size in sizes.items())
    return f"{includes}{defines}{_HEAD}int main(void) {{\n{runs}    return 0;\n}}\n"


def _call(case: Case, name: str) -> str:
    if case.how.features is not None:
        return f"{name}((const void *)raw.bytes, out)"
    if case.how.audio is None:
        return f"{name}(raw.bytes, scratch.bytes, out)"
    scratch = "" if case.how.audio.kind == "waveform" else "scratch.bytes, "
    return f"{name}((const void *)raw.bytes, {case.raw_bytes // 2}u, {scratch}out)"
