# SPDX-License-Identifier: Apache-2.0
"""Sizes that are known before there is an image, against images of models that nothing was fitted on."""

from pathlib import Path
from typing import Literal

import pytest

from benchmarks.operator_cases.case import flatbuffer
from benchmarks.operator_cases.chains import drawn_chain
from converter.c.core.program import Target
from converter.c.generate import generate
from edgefleet.boards.inference import build_inference
from edgefleet.boards.prediction import code_sizes, predict, table_bytes
from edgefleet.boards.toolchains import find_toolchain
from edgefleet.contracts.profile import kernel_set
from firmware_profiles.loader import load_profile


@pytest.mark.boards
@pytest.mark.parametrize("updatable", [False, True], ids=["static", "updatable"])
@pytest.mark.parametrize("compiler", ["gcc", "zig"])
@pytest.mark.parametrize("board", ["mps2-an386", "rv32-virt"])
@pytest.mark.parametrize(("seed", "layers"), [(11, 3), (17, 8), (5, 38)])
def test_code_is_predicted_within_two_percent_and_never_under(
    seed: int, layers: int, board: str, compiler: Literal["gcc", "zig"], updatable: bool, tmp_path: Path
) -> None:
    profile = load_profile(board)
    toolchain = find_toolchain(profile.cpu, prefer=compiler)
    model = flatbuffer(drawn_chain(seed, layers))
    generated = generate(model, name="probe", target=Target("tflm/1", kernel_set(profile)))
    built = build_inference(generated, profile=profile, toolchain=toolchain, folder=tmp_path, updatable=updatable)
    predicted = predict(
        [layer.variant for layer in generated.layers],
        blob_bytes=len(generated.blob),
        arena_bytes=generated.arena_bytes,
        cpu=profile.cpu,
        toolchain=toolchain,
        updatable=updatable,
    )
    if toolchain.name not in {sizes.compiler for sizes in code_sizes()}:
        assert predicted is None
        pytest.skip(f"{toolchain.name} has not been measured")
    assert predicted is not None
    assert built.besides_bytes <= predicted.code_bytes <= 1.02 * built.besides_bytes
    assert predicted.flash_bytes - predicted.code_bytes == len(generated.blob)
    assert predicted.ram_bytes == built.image.ram_bytes


@pytest.mark.parametrize(
    ("layers", "variants", "updatable", "expected"),
    [(0, 0, False, 48), (4, 2, False, 48), (5, 2, False, 64), (0, 0, True, 16), (1, 1, True, 16), (2, 1, True, 32)],
)
def test_tables_end_where_a_blob_may_begin(layers: int, variants: int, updatable: bool, expected: int) -> None:
    assert table_bytes(layers, variants, updatable=updatable) == expected


def test_nothing_is_predicted_of_kernels_that_nobody_measured() -> None:
    cpu = load_profile("mps2-an386").cpu
    assert predict(["conv2d/portable/unheard-of"], blob_bytes=16, arena_bytes=16, cpu=cpu) is None
