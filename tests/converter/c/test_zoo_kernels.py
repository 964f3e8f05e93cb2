# SPDX-License-Identifier: Apache-2.0
"""Real layers take the fast forms: a search that gets worse would go unnoticed in answers, and cost instructions."""

import os
from pathlib import Path

import pytest

from converter.c.core.program import Target
from converter.c.generate import generate

_SHARED = Path(os.environ.get("EDGEFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared"))


@pytest.mark.parametrize("name", ["kws", "ic_resnet8", "ad", "vww"])
def test_every_layer_with_weights_of_the_shared_models_runs_in_halves_or_planes(name: str) -> None:
    model = _SHARED / "models" / f"{name}_int8.tflite"
    if not model.exists():
        pytest.skip(f"EDGEFLEET_SHARED holds no models/{model.name}")
    generated = generate(model.read_bytes(), name=name, target=Target("tflm/1", "dsp"))
    variants = {layer.variant for layer in generated.layers}
    weighted = {one for one in variants if one.startswith(("conv2d", "depthwise", "fully_connected"))}
    assert {one for one in weighted if "halves" not in one and "3x3" not in one} == set()
