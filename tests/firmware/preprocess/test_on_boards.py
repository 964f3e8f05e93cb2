# SPDX-License-Identifier: Apache-2.0
"""The same generated C on emulated boards: the same bytes as on this machine, and what a frame costs there."""

import math
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from converter.c.core.preprocessing import Frame, generate_preprocessing
from edgefleet.boards.counting import Counts
from edgefleet.boards.emulator import boot
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.images import build
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.manifest import (
    AudioPreprocessing,
    FeaturePreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TensorSpec,
)
from firmware_profiles.loader import load_profile

Array = npt.NDArray[Any]
PACKAGES = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
            "qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}  # fmt: skip
MISSING = [f"{name} (apt-get install {package})" for name, package in PACKAGES.items() if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

#: What a case's program is told: how often to run, and its sizes; the calls follow.
HEAD = """
#include "board.h"
#define MOST(a, b) ((a) > (b) ? (a) : (b))
static union { uint64_t aligned; uint8_t bytes[RAW_BYTES]; } raw, scratch;
static int8_t out[VALUES];
#define RUN(in_name, out_name, raw_bytes, values, call) do { \\
        int in = board_open(in_name, BOARD_READ), to = board_open(out_name, BOARD_WRITE); \\
        while (board_read(in, raw.bytes, raw_bytes) == 0) { \\
            BOARD_RUN_BEGIN(); call; BOARD_RUN_END(); \\
            board_write(to, out, values); \\
        } \\
    } while (0)
"""


def int8(shape: Sequence[int], scale: float, zero_point: int) -> TensorSpec:
    return TensorSpec(name="x", shape=(1, *shape), dtype="int8", scale=scale, zero_point=zero_point)


def tried(case: Any) -> list[tuple[Any, Array, str]]:
    """Cases, samples for each, and the call."""
    rng = np.random.default_rng(6)
    clip = np.clip(np.rint(3000 * rng.normal(0, 1, (2, 1200)) * np.sin(np.arange(1200) / 40)), -32768, 32767)
    clips = np.concatenate([clip, np.full((1, 1200), 32767)]).astype(np.int16)
    audio = [
        AudioPreprocessing(kind="mfcc", sample_rate_hz=16000, clip_samples=1200),
        AudioPreprocessing(kind="log-mel", sample_rate_hz=16000, clip_samples=1200, frame_samples=1024,
                           stride_samples=64, fft_samples=1024, high_hz=8000.0),
        AudioPreprocessing(kind="waveform", sample_rate_hz=16000, clip_samples=1200),
    ]  # fmt: skip
    image = ImagePreprocessing(size=(24, 24), channels="BGR", scale=1 / 255)
    features = FeaturePreprocessing(mean=(0.5, -3.0, 1e9), deviation=(0.1, 7.0, 3e8))
    frames, rows = rng.integers(0, 256, (2, 60, 80, 3), dtype=np.uint8), rng.normal(0, 2, (50, 3)).astype(np.float32)
    return [
        (case(Preprocessing(audio=audio[0]), int8((3, 10), 0.6, 60), 2400), clips, "{}(raw, 1200, scratch, out)"),
        (case(Preprocessing(audio=audio[1]), int8((3, 40), 0.08, 50), 2400), clips, "{}(raw, 1200, scratch, out)"),
        (case(Preprocessing(audio=audio[2]), int8((1200,), 1 / 128, 0), 2400), clips, "{}(raw, 1200, out)"),
        (case(Preprocessing(image=image), int8((24, 24, 3), 1 / 255, -128), 14400, Frame(60, 80)), frames,
         "{}(raw, scratch, out)"),
        (case(Preprocessing(features=features), int8((3,), 0.03, -5), 12), rows, "{}(raw, out)"),
    ]  # fmt: skip


def program(folder: Path, cases: Sequence[tuple[Any, Array, str]]) -> list[Path]:
    """Write the sources of one program that runs every case on its file."""
    kernels: set[str] = set()
    includes, runs, names = "", "", []
    for number, (one, _, call) in enumerate(cases):
        made = generate_preprocessing(one.how, one.spec, name=f"m{number}", frame=one.frame)
        kernels.update(made.kernel_sources)
        for name, text in made.sources.items():
            (folder / name).write_text(text)
        names.append(f"m{number}_preprocess.c")
        includes += f'#include "m{number}_preprocess.h"\n'
        spoken = call.format(f"m{number}_preprocess").replace("raw", "(const void *)raw.bytes")
        runs += f'    RUN("in{number}", "out{number}", {one.raw_bytes}u, {math.prod(one.spec.shape)}u, '
        runs += f"{spoken.replace('scratch', 'scratch.bytes')});\n"
    main = f"{includes}{HEAD}int main(void) {{\n{runs}    return 0;\n}}\n"
    main = main.replace("RAW_BYTES", "16384").replace("VALUES", "2048")
    (folder / "main.c").write_text(main)
    return [folder / "main.c", *(folder / name for name in names),
            *(firmware_folder() / "kernels" / name for name in sorted(kernels))]  # fmt: skip


@pytest.mark.parametrize(
    ("board", "compiler"),
    [("mps2-an386", "gcc"), ("mps2-an385", "gcc"), ("rv32-virt", "gcc"), ("mps2-an386", "zig"), ("rv32-virt", "zig")],
)
def test_a_board_makes_the_bytes_that_this_machine_makes(
    board: str, compiler: Any, compiled: Any, case: Any, tmp_path: Path, record_property: Any
) -> None:
    if compiler == "zig" and find_spec("ziglang") is None:
        pytest.skip("pip install ziglang: the compiler zig is not installed")
    cases, profile = tried(case), load_profile(board)
    image = build(
        program(tmp_path, cases), profile=profile, toolchain=find_toolchain(profile.cpu, prefer=compiler),
        folder=tmp_path, includes=(tmp_path,),
    )  # fmt: skip
    files = tmp_path / "board"
    files.mkdir()
    for number, (_, batch, _) in enumerate(cases):
        (files / f"in{number}").write_bytes(batch.tobytes())
    with boot(image, profile, folder=files, counting=True) as booted:
        assert booted.wait() == 0, booted.output
        runs = iter(booted.counts().runs)
    here = compiled([one for one, _, _ in cases])
    for number, (one, batch, _) in enumerate(cases):
        there = np.frombuffer((files / f"out{number}").read_bytes(), np.int8).reshape(len(batch), -1)
        assert np.array_equal(there, here(number, batch)), one.how
        costs: list[Counts] = [next(runs).total for _ in batch]
        record_property(f"{board} {compiler} case {number}", str(max(cost.instructions for cost in costs)))
