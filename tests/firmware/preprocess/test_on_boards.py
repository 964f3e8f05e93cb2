# SPDX-License-Identifier: Apache-2.0
"""The same generated C on emulated boards: the same bytes as on this machine, and what a frame costs there."""

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.preprocessing_cases.board import run_on_board
from benchmarks.preprocessing_cases.case import Case
from converter.c.core.preprocessing import Frame
from edgefleet.contracts.manifest import (
    AudioPreprocessing,
    FeaturePreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TensorSpec,
)

Array = npt.NDArray[Any]
PACKAGES = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
            "qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}  # fmt: skip
MISSING = [f"{name} (apt-get install {package})" for name, package in PACKAGES.items() if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def int8(shape: Sequence[int], scale: float, zero_point: int) -> TensorSpec:
    return TensorSpec(name="x", shape=(1, *shape), dtype="int8", scale=scale, zero_point=zero_point)


def tried() -> list[tuple[Case, Array]]:
    """Cases, and samples for each."""
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
        (Case(Preprocessing(audio=audio[0]), int8((3, 10), 0.6, 60), 2400), clips),
        (Case(Preprocessing(audio=audio[1]), int8((3, 40), 0.08, 50), 2400), clips),
        (Case(Preprocessing(audio=audio[2]), int8((1200,), 1 / 128, 0), 2400), clips),
        (Case(Preprocessing(image=image), int8((24, 24, 3), 1 / 255, -128), 14400, Frame(60, 80)), frames),
        (Case(Preprocessing(features=features), int8((3,), 0.03, -5), 12), rows),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("board", "compiler"),
    [("mps2-an386", "gcc"), ("mps2-an385", "gcc"), ("rv32-virt", "gcc"), ("mps2-an386", "zig"), ("rv32-virt", "zig")],
)
def test_a_board_makes_the_bytes_that_this_machine_makes(
    board: str, compiler: Any, compiled: Any, tmp_path: Path, record_property: Any
) -> None:
    if compiler == "zig" and find_spec("ziglang") is None:
        pytest.skip("pip install ziglang: the compiler zig is not installed")
    cases, batches = zip(*tried(), strict=True)
    there = run_on_board(cases, batches, board=board, folder=tmp_path, compiler=compiler)
    here = compiled(cases)
    for number, (one, batch, (made, costs)) in enumerate(zip(cases, batches, there, strict=True)):
        assert np.array_equal(made, here(number, batch)), one.how
        record_property(f"{board} {compiler} case {number}", str(max(cost.instructions for cost in costs)))
