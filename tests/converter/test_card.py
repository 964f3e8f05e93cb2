# SPDX-License-Identifier: Apache-2.0
"""The model card says in words what the manifest says in fields."""

from typing import Any

import pytest

from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from converter.core.reports.card import model_card
from edgefleet.contracts.manifest import (
    Accelerator,
    ArenaPlan,
    AudioPreprocessing,
    Budgets,
    FeaturePreprocessing,
    ImagePreprocessing,
    Interface,
    Lineage,
    Manifest,
    Member,
    ParityVectors,
    Preprocessing,
    ProfileReference,
    RuntimeRequirement,
    TensorSpec,
    Tolerances,
)

FACTS = GraphFacts(
    (OperatorFacts("RELU", 2, (0,), (1,)),), (TensorFacts("x", (1, 4), "int8", 0),) * 2, (0,), (1,), 1, 640, None
)


def card(**changes: Any) -> str:
    spec = TensorSpec(name="x", shape=(1, 4), dtype="int8", scale=0.5, zero_point=-3)
    facts: dict[str, Any] = {
        "format_version": 1, "name": "pump", "version": "1.0.0", "task": "anomaly", "metric": "auc",
        "precision": "int8", "profile": ProfileReference(id="mps2-an386", compat_hash="ab" * 32),
        "runtime": RuntimeRequirement(kind="tflm", minimum_version="1", numerics="tflm/1"),
        "interface": Interface(inputs=(spec,), outputs=(spec,)), "preprocessing": Preprocessing(),
        "tolerances": Tolerances(unit="lsb", reference=0.0, production=0.0), "budgets": Budgets(),
        "parity": ParityVectors(samples=1, inputs=("golden/i.bin",), outputs=("golden/o.bin",)),
        "model": "model/model.tflite", "members": (Member(path="golden/i.bin", sha256="0" * 64, size_bytes=1),),
        "lineage": Lineage(source_sha256="01" * 32, recipe_sha256="02" * 32),
    }  # fmt: skip
    return model_card(Manifest(**{**facts, **changes}), FACTS, "precision int8", ()).decode()


def test_a_plain_card_says_what_it_is_for() -> None:
    said = card()
    assert said.startswith("# pump 1.0.0 for mps2-an386\n\nAn anomaly model in int8, for tflm 1 or later (tflm/1). ")
    assert "None: inputs come in the model's own units." in said
    assert "Compiled" not in said
    assert "Activations" not in said


def test_a_model_that_nothing_here_ran_says_so() -> None:
    said = card(
        execution="compiled-not-run",
        runtime=RuntimeRequirement(
            kind="tflm", minimum_version="1", numerics="tflm/1",
            accelerator=Accelerator(id="ethos-u55-128", npu_share=0.875),
        ),
    )  # fmt: skip
    assert "Compiled for the accelerator ethos-u55-128, which runs 87.5 % of the operators." in said
    assert "**Compiled, not run**: nothing at conversion could run it as the board will." in said


def test_the_arena_and_the_rewrites_are_told() -> None:
    said = card(
        arena=ArenaPlan(planner="offline", head_bytes=55296, bound_bytes=55296, total_bytes=85248),
        lineage=Lineage(source_sha256="01" * 32, recipe_sha256="02" * 32, rewrites=("903 channels removed",)),
    )
    assert (
        "Activations take 55296 bytes by a plan that is embedded in the model (no plan takes less than 55296); "
        "with the interpreter's structures the arena is 85248 bytes."
    ) in said
    assert "- 903 channels removed\n" in said


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            Preprocessing(image=ImagePreprocessing(size=(96, 80), channels="BGR", scale=0.5)),
            "8-bit RGB pictures are resized to 96×80 (bilinear), channels taken as BGR, then pixel × 0.5 + 0.0.",
        ),
        (
            Preprocessing(audio=AudioPreprocessing(kind="mfcc", sample_rate_hz=16000, clip_samples=16000)),
            "Mono clips at 16000 Hz are cut or padded to 16000 samples; frames of 480 every 320 samples, FFT of 512, "
            "40 mel bins from 20 to 4000 Hz, their logarithm, of which 10 DCT coefficients are kept; "
            "then x × 1.0 + 0.0.",
        ),
        (
            Preprocessing(audio=AudioPreprocessing(kind="waveform", sample_rate_hz=8000, clip_samples=400)),
            "Mono clips at 8000 Hz are cut or padded to 400 samples, then x × 1.0 + 0.0.",
        ),
        (
            Preprocessing(features=FeaturePreprocessing(mean=(1.5,), deviation=(2.0,))),
            "Each column becomes (x − mean) / deviation:\n\n"
            "| column | mean | deviation |\n|---|---|---|\n| 0 | 1.5 | 2.0 |",
        ),
    ],
)
def test_each_kind_of_preprocessing_is_told(how: Preprocessing, said: str) -> None:
    assert f"## Preprocessing\n\n{said}\n" in card(preprocessing=how)
