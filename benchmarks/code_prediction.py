# SPDX-License-Identifier: Apache-2.0
"""Predicted sizes against built images: chains of layers drawn at random, and the shared models.

    python -m benchmarks.code_prediction [--chains 20] [--boards mps2-an386 …] [--compilers gcc zig]

Nothing was fitted on the chains: kernels are measured one by one (``scripts/write_code_sizes.py``). A ratio is
predicted over built bytes of code beside the blob: it is to be at least 1, and at most 1.02.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operator_cases.case import flatbuffer
from benchmarks.operator_cases.chains import drawn_chain
from benchmarks.record import SHARED, write
from converter.c.core.program import Target
from converter.c.generate import Generated, generate
from edgefleet.boards.inference import build_inference
from edgefleet.boards.prediction import predict
from edgefleet.boards.toolchains import Toolchain, find_toolchain
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import load_profile

_BOARDS = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "rv32-virt")
_SHARED_MODELS = ("kws_int8", "ic_resnet8_int8", "ad_int8", "vww_int8")
_FEWEST, _MOST = 3, 40
_WORST_RATIO = 1.02


def main() -> None:
    options = _options()
    rows = [
        _row(name, model, load_profile(board), compiler, updatable)
        for name, model in _models(options.chains)
        for board in options.boards
        for compiler in options.compilers
        for updatable in (False, True)
    ]
    write("code_prediction", {"chains": options.chains, **_summary(rows), "rows": rows})


def _models(chains: int) -> Iterator[tuple[str, bytes]]:
    for name in _SHARED_MODELS:
        path = SHARED / "models" / f"{name}.tflite"
        if path.is_file():
            yield name, path.read_bytes()
    for seed in range(chains):
        layers = _FEWEST + seed * 7 % (_MOST - _FEWEST + 1)
        yield f"chain_{seed}", flatbuffer(drawn_chain(seed, layers))


def _row(name: str, model: bytes, profile: Profile, compiler: Any, updatable: bool) -> dict[str, Any]:
    generated = generate(model, name="probe", target=Target("tflm/1", kernel_set(profile)))
    toolchain = find_toolchain(profile.cpu, prefer=compiler)
    variants = [layer.variant for layer in generated.layers]
    code_bytes, ram_bytes = _built(generated, profile, toolchain, updatable)
    predicted = predict(
        variants,
        blob_bytes=len(generated.blob),
        arena_bytes=generated.arena_bytes,
        cpu=profile.cpu,
        toolchain=toolchain,
        updatable=updatable,
    )
    assert predicted is not None, f"{toolchain.name} for {profile.cpu.core} has not been measured"
    return {
        "model": name,
        "board": profile.id,
        "compiler": toolchain.name,
        "build": "updatable" if updatable else "static",
        "layers": len(variants),
        "variants": len(set(variants)),
        "code_bytes": code_bytes,
        "predicted_code_bytes": predicted.code_bytes,
        "ratio": round(predicted.code_bytes / code_bytes, 5),
        "ram_bytes_over": predicted.ram_bytes - ram_bytes,
    }


def _built(generated: Generated, profile: Profile, toolchain: Toolchain, updatable: bool) -> tuple[int, int]:
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        built = build_inference(
            generated, profile=profile, toolchain=toolchain, folder=Path(folder), updatable=updatable
        )
    return built.besides_bytes, built.image.ram_bytes


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = [row["ratio"] for row in rows]
    return {
        "images": len(rows),
        "under": sum(row["predicted_code_bytes"] < row["code_bytes"] for row in rows),
        "over_two_percent": sum(ratio > _WORST_RATIO for ratio in ratios),
        "memory_not_exact": sum(row["ram_bytes_over"] != 0 for row in rows),
        "least": min(ratios),
        "median": float(np.median(ratios)),
        "most": max(ratios),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--boards", nargs="+", default=list(_BOARDS))
    parser.add_argument("--compilers", nargs="+", choices=("gcc", "zig"), default=["gcc", "zig"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
