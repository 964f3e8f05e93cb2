# SPDX-License-Identifier: Apache-2.0
"""Some hundred damaged models, the same ones each time: no crash, no hang. A campaign in benchmarks does 10,000."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.campaign_fuzz_models import HANG_S
from benchmarks.model_mutations import mutant

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "digits" / "v1_float32.tflite"


def campaign(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.campaign_fuzz_models", "--print-only", *options],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_damaged_models_are_inspected_or_refused() -> None:
    found = campaign("--inspect", "--count", "260")
    assert found["faults"] == []
    assert found["slowest_s"] < HANG_S
    assert sum(found["outcomes"].values()) == 260
    assert found["outcomes"]["refused"] > 30
    assert found["outcomes"]["done"] > 30


@pytest.mark.slow
def test_damaged_models_are_converted_or_refused() -> None:
    found = campaign("--count", "40", "--quantize-every", "10")
    assert found["faults"] == []
    assert found["slowest_s"] < HANG_S
    assert sum(found["outcomes"].values()) == 40


def test_a_mutant_is_known_by_its_number_and_differs_from_its_model() -> None:
    model = MODEL.read_bytes()
    made = [mutant(model, 1, number) for number in range(50)]
    assert made == [mutant(model, 1, number) for number in range(50)]
    assert len(set(made)) > 45
    assert model not in made
    assert mutant(model, 2, 0) != mutant(model, 1, 0)
