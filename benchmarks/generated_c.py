# SPDX-License-Identifier: Apache-2.0
"""What generated models cost on emulated boards, and whether every build of them gives TFLM's bytes.

    python -m benchmarks.generated_c [--samples 4] [--models kws vww …] [--boards mps2-an386 …]

For each shared int8 model, board and compiler, static and updatable: instructions, loads and stores of one inference
(the largest of the batch), stack, flash, memory and code. QEMU counts instructions exactly; they are not cycles, and no
figure here was measured on hardware. The baseline, in the same call, is the same model with portable kernels on the
same board.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import SHARED, skip, write
from converter.c.core.program import KernelSet, Target
from converter.c.generate import Generated, generate
from edgefleet.boards.inference import Inference, InferenceImage, build_inference, run_inference
from edgefleet.boards.stack import stack_bound
from edgefleet.boards.toolchains import Kind, find_toolchain
from edgefleet.contracts.profile import Profile, kernel_set
from edgefleet.runtimes.tflm import TflmInterpreter
from firmware_profiles.loader import load_profile

_MODELS = {"kws": "kws_int8", "ic": "ic_resnet8_int8", "ad": "ad_int8", "vww": "vww_int8"}
_BOARDS = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "rv32-virt")
_SEED = 0
_BUILDS = {False: "static", True: "updatable"}


def main() -> None:
    options = _options()
    folder = SHARED / "models"
    if not folder.is_dir():
        skip(f"the shared models are not in {folder}")
    rows = [row for model in options.models for row in _model_rows(folder, model, options)]
    wrong = [row for row in rows if not row["same_as_tflm"]]
    for row in rows:
        print(_line(row))
    print(f"{len(rows)} builds, {len(wrong)} with other bytes than TFLM's")
    write("generated_c", {"samples": options.samples, "rows": rows, "different": len(wrong)})


@dataclass(frozen=True)
class _Subject:
    """A model with samples for it, one after the other."""

    name: str
    model: bytes
    inputs: bytes
    samples: int


@dataclass(frozen=True)
class _Made:
    """What became of a model on a board."""

    generated: Generated
    image: InferenceImage
    done: Inference
    stack_bound_bytes: int


def _model_rows(folder: Path, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    model = (folder / f"{_MODELS[name]}.tflite").read_bytes()
    oracle = TflmInterpreter(model)
    random = np.random.default_rng(_SEED)
    batch = [random.integers(-128, 128, oracle.inputs[0].shape).astype(np.int8) for _ in range(options.samples)]
    expected = b"".join(oracle.invoke([sample])[0].tobytes() for sample in batch)
    subject = _Subject(name, model, b"".join(sample.tobytes() for sample in batch), options.samples)
    rows = []
    for board in options.boards:
        profile = load_profile(board)
        portable = _run(subject, profile, "portable", compiler="gcc", updatable=False).done.most.instructions
        for compiler in options.compilers:
            for updatable in (False, True):
                made = _run(subject, profile, kernel_set(profile), compiler=compiler, updatable=updatable)
                build = _BUILDS[updatable]
                rows.append({"model": name, "build": build, **_row(made, profile, expected, portable)})
    return rows


def _run(subject: _Subject, profile: Profile, kernels: KernelSet, *, compiler: Kind, updatable: bool) -> _Made:
    generated = generate(subject.model, name=subject.name, target=Target("tflm/1", kernels))
    toolchain = find_toolchain(profile.cpu, prefer=compiler)
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        place = Path(folder)
        image = build_inference(
            generated, profile=profile, toolchain=toolchain, folder=place / "build", updatable=updatable
        )
        bound = stack_bound(image.image, toolchain).bytes
        done = run_inference(image, subject.inputs, subject.samples, folder=place / "run")
        return _Made(generated, image, done, bound)


def _row(made: _Made, profile: Profile, expected: bytes, portable: int) -> dict[str, Any]:
    generated, image, done = made.generated, made.image, made.done
    most = done.most
    return {
        "board": profile.id,
        "core": profile.cpu.core,
        "kernels": generated.target.kernel_set,
        "compiler": f"{image.image.key.compiler} {image.image.key.version}",
        "same_as_tflm": done.outputs == expected,
        "instructions": most.instructions,
        "of_portable": round(most.instructions / portable, 4),
        "loads": most.loads,
        "stores": most.stores,
        "stack_bytes": done.stack_bytes,
        "stack_bound_bytes": made.stack_bound_bytes,
        "flash_bytes": image.image.flash_bytes,
        "blob_bytes": image.blob_bytes,
        "besides_blob_bytes": image.besides_bytes,
        "ram_bytes": image.image.ram_bytes,
        "arena_bytes": generated.arena_bytes,
    }


def _line(row: dict[str, Any]) -> str:
    same = "same" if row["same_as_tflm"] else "DIFFERENT"
    return (
        f"{row['model']:4} {row['core']:11} {row['compiler'].split()[0]:4} {row['build']:9} {same:9} "
        f"{row['instructions']:>11,} ({row['of_portable']:.3f} of portable) loads {row['loads']:>10,} "
        f"stores {row['stores']:>9,} stack {row['stack_bytes']:>4} <= {row['stack_bound_bytes']:>4} "
        f"flash {row['flash_bytes']:>7,} = {row['blob_bytes']:>7,} + {row['besides_blob_bytes']:>6,} "
        f"memory {row['ram_bytes']:>6,}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--models", nargs="+", choices=sorted(_MODELS), default=list(_MODELS))
    parser.add_argument("--boards", nargs="+", default=list(_BOARDS))
    parser.add_argument("--compilers", nargs="+", choices=("gcc", "zig"), default=["gcc", "zig"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
