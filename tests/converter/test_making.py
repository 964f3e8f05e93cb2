# SPDX-License-Identifier: Apache-2.0
"""What a board asks for besides a recipe: an arena plan, a compiled copy for an NPU; and models taken as they are."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import converter
from converter.adapters.flatbuffers.offline_plan import read_plan
from converter.adapters.vela import PROGRAM_VARIABLE
from converter.core.recipe import Recipe
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import BudgetError, InputError
from edgefleet.contracts.manifest import Budgets
from firmware_profiles import load_profile

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
RECIPE = Recipe(precision="int8", conditioning=("none",))
needs_vela = pytest.mark.skipif(
    find_spec("ethosu") is None and PROGRAM_VARIABLE not in os.environ,
    reason=f"no vela: pip install ethos-u-vela (the extra 'mcu'), or name the program in {PROGRAM_VARIABLE}",
)
needs_tflm = pytest.mark.skipif(
    find_spec("tflite_micro") is None, reason="no tflite_micro: pip install tflite-micro (the extra 'converter')"
)


@pytest.fixture(scope="module")
def calibration() -> np.ndarray:
    with np.load(DIGITS / "digits.npz") as stored:
        samples: np.ndarray = stored["calibration_x"][:60]
        return samples


@pytest.fixture(scope="module")
def quantized(calibration: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is quantized already."""
    path = convert(calibration=calibration).write(tmp_path_factory.mktemp("quantized"))
    bundle = open_bundle(path)
    model = path.with_suffix(".tflite")
    model.write_bytes(bundle.read(bundle.manifest.model))
    return model


def convert(model: Path = DIGITS / "v1_float32.tflite", **changes: Any) -> converter.Converted:
    given = {"profile": "linux-x86_64", "name": "digits", "version": "1.0.0", "recipe": RECIPE}
    return converter.convert(model, **{**given, **changes})


@needs_tflm
def test_a_microcontroller_gets_the_better_arena_plan_inside_the_model(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "models" / "vww_float32.tflite"
    samples = np.random.default_rng(3).random((6, 96, 96, 3), np.float32)
    made = convert(source, profile="mps2-an386", name="person", calibration=samples)
    arena = made.manifest.arena
    assert arena is not None
    assert (arena.planner, arena.head_bytes) == ("offline", arena.bound_bytes)
    assert made.manifest.lineage.rewrites[-1].startswith(f"arena planned offline: {arena.head_bytes} bytes where TFLM")
    path = made.write(tmp_path)
    bundle = open_bundle(path)
    assert read_plan(bundle.read(bundle.manifest.model))
    assert [check.name for check in converter.verify(path).checks] == ["format", "parity, TFLM"]


@needs_vela
def test_a_model_for_an_npu_is_compiled_and_says_that_nothing_ran_it(calibration: np.ndarray, tmp_path: Path) -> None:
    made = convert(profile="corstone-300-u55", calibration=calibration)
    assert (made.manifest.execution, made.manifest.precision) == ("compiled-not-run", "int8")
    assert made.manifest.runtime.accelerator is not None
    assert made.manifest.runtime.accelerator.npu_share == 1.0
    assert made.manifest.lineage.rewrites[-1].startswith("compiled by vela ")
    assert "ethos-u-vela" in [tool.name for tool in made.manifest.lineage.tools]
    path = made.write(tmp_path)
    assert converter.verify(path).checks[-1].result.startswith("compiled-not-run: nothing here runs the model")
    assert converter.rebuild(path, source=DIGITS / "v1_float32.tflite", calibration=calibration).same


@needs_vela
def test_a_search_for_an_npu_judges_what_the_compiler_makes(calibration: np.ndarray) -> None:
    made = convert(profile="corstone-300-u55", calibration=np.tile(calibration, (2, 1, 1, 1)), max_latency="1s")
    [chosen] = [candidate for candidate in made.evidence.candidates if candidate.chosen]
    assert made.manifest.execution == "compiled-not-run"
    assert made.evidence.predicted_latency is not None
    assert chosen.model_bytes == made.evidence.model_bytes
    assert chosen.latency_us == made.evidence.predicted_latency.microseconds


@needs_vela
def test_a_compiled_model_larger_than_the_board_allows_is_refused(calibration: np.ndarray) -> None:
    board = load_profile("corstone-300-u55")
    small = msgspec.structs.replace(board, budgets=Budgets(model_bytes=8000))  # it has 6,688 bytes before
    with pytest.raises(BudgetError, match=r"^the model has 9\d{3} bytes; profile 'corstone-300-u55' allows 8000 "):
        convert(profile=small, calibration=calibration)


@needs_tflm
def test_an_arena_budget_that_nothing_keeps_is_told_with_the_nearest(calibration: np.ndarray) -> None:
    with pytest.raises(BudgetError) as refused:
        convert(profile="mps2-an386", calibration=calibration, max_arena=1000)
    assert "candidates keeps all budgets; the nearest, '" in refused.value.message
    assert "breaks 1: the arena is " in refused.value.message
    assert refused.value.message.endswith(" bytes over the budget of 1000 bytes")


def test_a_quantized_model_is_taken_as_it_is_and_made_again(
    quantized: Path, calibration: np.ndarray, tmp_path: Path
) -> None:
    made = convert(quantized, calibration=calibration, recipe=None)
    assert made.recipe is None
    assert f"{made.file_name.removesuffix('.bundle')}.recipe.json" not in made.documents
    assert made.evidence.float_model_bytes is None
    path = made.write(tmp_path)
    bundle = open_bundle(path)
    assert bundle.read(bundle.manifest.model) == quantized.read_bytes()
    assert converter.rebuild(path, source=quantized, calibration=calibration).same
    found = converter.rebuild(path, source=quantized, calibration=calibration, recipe=RECIPE)
    assert [finding.what for finding in found.findings] == ["the recipe"]


def test_a_recipe_for_a_quantized_model_is_not_passed_over_in_silence(quantized: Path, calibration: np.ndarray) -> None:
    plain, told = (convert(quantized, calibration=calibration, recipe=recipe) for recipe in (None, RECIPE))
    assert plain.bundle == told.bundle
    assert told.evidence.warnings == (
        *plain.evidence.warnings,
        "the recipe was not followed: the model is quantized already, and taken as it is",
    )


def test_there_is_nothing_to_search_for_or_explain_in_a_quantized_model(
    quantized: Path, calibration: np.ndarray
) -> None:
    with pytest.raises(InputError, match=r"^the model is quantized already, so that there is nothing to search for"):
        convert(quantized, calibration=calibration, max_flash="40kB")
    with pytest.raises(InputError, match=r"^--explain compares layers with the float model's"):
        convert(quantized, calibration=calibration, explain=True)


def test_a_search_that_time_ended_says_so_in_the_evidence_and_not_in_the_bundle(calibration: np.ndarray) -> None:
    samples = np.tile(calibration, (2, 1, 1, 1))
    made = convert(calibration=samples, max_accuracy_drop="50pt", search_limit=1e-9)
    assert made.evidence.warnings[-1].startswith(
        "the search was ended by its time limit of 1e-09 s, after 1 candidates"
    )
    assert convert(calibration=samples, recipe=made.recipe).bundle == made.bundle


def test_a_search_without_calibration_samples_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"^searching for a model within budgets needs calibration samples$"):
        convert(max_flash="40kB")
