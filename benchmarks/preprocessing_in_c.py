# SPDX-License-Identifier: Apache-2.0
"""Preprocessing as C: how far spectra are from the reference, and what typical frames cost on emulated boards.

``python -m benchmarks.preprocessing_in_c [SEEDS]``. It fails where a value is more than 1 away from the reference, or
less than 99 % of a spectrum's are equal to it.
"""

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.preprocessing_cases.board import run_on_board
from benchmarks.preprocessing_cases.case import Case
from benchmarks.preprocessing_cases.host import compile_here
from benchmarks.preprocessing_cases.sounds import SAMPLES, SPECTRA, clips, fitted, spectrum
from benchmarks.record import write
from converter.c.core.preprocessing import Frame, generate_preprocessing
from edgefleet.contracts.manifest import AudioPreprocessing, ImagePreprocessing, Preprocessing, TensorSpec
from edgefleet.runtimes.audio import audio_shape
from edgefleet.runtimes.preprocessing import made_shape

Array = npt.NDArray[Any]
_SEEDS = 20
_BOARDS = ("mps2-an386", "mps2-an385", "mps3-an547", "rv32-virt")
_LEAST_EQUAL = 0.99
_PICTURES: list[tuple[Frame, dict[str, Any]]] = [
    (Frame(240, 320), {"size": (96, 96), "channels": "BGR"}),
    (Frame(120, 160), {"size": (96, 96), "channels": "GRAY", "resize": "area"}),
    (Frame(240, 320), {"size": (96, 96), "channels": "GRAY", "resize": "nearest"}),
    (Frame(96, 96), {"size": (96, 96)}),
    (Frame(120, 160, 1), {"size": (96, 96), "channels": "GRAY"}),
]


def main() -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else _SEEDS
    with tempfile.TemporaryDirectory() as folder:
        bounds = _bounds(Path(folder), seeds)
        costs = {board: _costs(Path(folder) / board, board) for board in _BOARDS}
    write("preprocessing_in_c", {"seeds": seeds, "spectra": bounds, "instructions": costs})
    kept = all(bound["most_away"] <= 1 and bound["equal"] >= _LEAST_EQUAL for bound in bounds)
    return 0 if kept else 1


def _bounds(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Compare every spectrum's C with the reference, on clips that the input's scale was not chosen by, too."""
    hows = [spectrum(**fields) for fields in SPECTRA]
    cases = [Case(Preprocessing(audio=how), fitted(how, clips(0)), 2 * SAMPLES) for how in hows]
    run = compile_here(cases, folder, flags=("-std=c99", "-O2"))
    found = []
    for number, (case, fields) in enumerate(zip(cases, SPECTRA, strict=True)):
        away = [np.abs(run(number, batch).astype(int) - case.expected(batch)) for batch in map(clips, range(seeds))]
        values = sum(one.size for one in away)
        differ, most = sum(int((one > 0).sum()) for one in away), max(int(one.max()) for one in away)
        found.append({**fields, "values": values, "differ": differ, "equal": 1 - differ / values, "most_away": most})
        print(f"{fields}: {values} values, {differ} differ ({1 - differ / values:.4%} equal), at most {most} away")
    return found


def _typical() -> list[tuple[str, Case, Array, int]]:
    """Name, case, two samples, and how many frames a sample has."""
    rng, made = np.random.default_rng(0), []
    for kind in ("mfcc", "log-mel"):
        for fields in ({}, {"frame_samples": 1024, "stride_samples": 512, "fft_samples": 1024, "high_hz": 8000.0}):
            how = AudioPreprocessing(kind=kind, sample_rate_hz=16000, clip_samples=SAMPLES, **fields)  # type: ignore[arg-type]
            batch = clips(3)[-2:]
            name = f"{kind} {how.frame_samples}/{how.fft_samples}, a frame"
            made.append(
                (name, Case(Preprocessing(audio=how), fitted(how, batch), 2 * SAMPLES), batch, audio_shape(how)[0])
            )
    for frame, fields in _PICTURES:
        how_picture = Preprocessing(image=ImagePreprocessing(scale=1 / 255, **fields))
        shape = made_shape(how_picture) or ()
        spec = TensorSpec(name="x", shape=(1, *shape), dtype="int8", scale=1 / 255, zero_point=-128)
        batch = rng.integers(0, 256, (2, frame.height, frame.width, frame.channels), dtype=np.uint8)
        name = f"{frame.height}x{frame.width}x{frame.channels} -> {shape} {fields.get('resize', 'bilinear')}"
        made.append((name, Case(how_picture, spec, math.prod(batch.shape[1:]), frame), batch, 1))
    return made


def _costs(folder: Path, board: str) -> dict[str, dict[str, int]]:
    """Run each typical case alone, so that one image has one kernel; compare, and keep what it took."""
    found = {}
    for number, (name, case, batch, frames) in enumerate(_typical()):
        place = folder / str(number)
        place.mkdir(parents=True)
        ((outputs, counts),) = run_on_board([case], [batch], board=board, folder=place)
        away = int(np.abs(outputs.astype(int) - case.expected(batch)).max())
        scratch = generate_preprocessing(case.how, case.spec, name="m", frame=case.frame).scratch_bytes
        most = max(counts, key=lambda one: one.instructions)
        found[name] = {
            "instructions": most.instructions // frames, "loads": most.loads // frames, "stores": most.stores // frames,
            "stack_bytes": most.stack_bytes, "scratch_bytes": scratch, "most_away": away,
        }  # fmt: skip
        print(f"{board:12}{name:44}{found[name]}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
