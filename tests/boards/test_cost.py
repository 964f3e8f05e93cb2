# SPDX-License-Identifier: Apache-2.0
"""Cost models: cycles from counts, the fit that finds them, the file that keeps them."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet.boards.calibration import CASES
from edgefleet.boards.cost import (
    CLASSES,
    CostModel,
    CyclesPer,
    Fit,
    Measured,
    assumed_cost,
    cost_toml,
    fit_cost,
    non_negative_least_squares,
    read_cost,
)
from edgefleet.contracts.errors import SettingError

WEIGHT = st.one_of(st.just(0.0), st.floats(0.1, 8.0))


@dataclass(frozen=True)
class Counts:
    instructions: int
    loads: int
    stores: int


def answers(weights: tuple[float, float, float], noise: float, seed: int = 1) -> tuple[Measured, ...]:
    """What a board of known weights would measure, each reading off by up to a share ``noise``."""
    rng = random.Random(seed)
    measured = []
    for case in CASES:
        one = case.measured(1)
        cycles = one.instructions * weights[0] + one.loads * weights[1] + one.stores * weights[2]
        measured.append(case.measured(max(1, round(cycles * (1 + rng.uniform(-noise, noise))))))
    return tuple(measured)


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.floats(0.3, 4.0), WEIGHT, WEIGHT))
def test_the_fit_recovers_known_weights(weights: tuple[float, float, float]) -> None:
    model = fit_cost(answers(weights, 0.0), profile="board", source="a test")
    found = [getattr(model.cycles_per, name) for name in CLASSES]
    assert found == pytest.approx(weights, abs=2e-3)
    assert model.fit is not None
    assert model.fit.worst_error < 1e-3


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.floats(0.5, 3.0), WEIGHT, WEIGHT), st.integers(0, 1000))
def test_two_percent_of_noise_moves_a_mixture_s_estimate_by_no_more(
    weights: tuple[float, float, float], seed: int
) -> None:
    model = fit_cost(answers(weights, 0.02, seed), profile="board", source="a test")
    kernel = Counts(2_961_090, 1_089_376, 133_111)  # a keyword model on a Cortex-M4
    true = 2_961_090 * weights[0] + 1_089_376 * weights[1] + 133_111 * weights[2]
    assert model.cycles(kernel) == pytest.approx(true, rel=0.02)
    assert model.fit is not None
    assert model.fit.worst_error < 0.05


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*(st.floats(0, 10),) * 3), min_size=4, max_size=8), st.data())
def test_no_other_point_without_negatives_is_nearer(
    rows: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.floats(-5, 5), min_size=len(rows), max_size=len(rows)))

    def rest(x: tuple[float, ...] | list[float]) -> float:
        return sum(
            (sum(a * b for a, b in zip(row, x, strict=True)) - y) ** 2 for row, y in zip(rows, wanted, strict=True)
        )

    try:
        found = non_negative_least_squares(rows, wanted)
    except ValueError:
        return  # columns that say the same
    assert min(found) >= 0.0
    for other in data.draw(st.lists(st.tuples(*(st.floats(0, 5),) * 3), max_size=20)):
        assert rest(found) <= rest(other) * (1 + 1e-6) + 1e-6


def test_cases_that_say_the_same_are_refused() -> None:
    measured = [Measured("a", 100, 50, 25, 200), Measured("b", 200, 100, 50, 410), Measured("c", 300, 150, 75, 600)]
    with pytest.raises(ValueError, match="do not tell instructions, loads and stores apart"):
        fit_cost(measured, profile="board", source="a test")


def test_a_model_says_whether_it_is_calibrated_and_on_what() -> None:
    assumed = assumed_cost("mps2-an386")
    assert not assumed.calibrated
    assert assumed.describe() == (
        "not calibrated: assumed one cycle an instruction, and one more for each word loaded or stored"
    )
    assert assumed.cycles(Counts(100, 20, 3)) == 123
    model = CostModel(
        profile="nucleo", source="its dwt cycle counter", cycles_per=CyclesPer(instructions=1.1, loads=0.5, stores=0.0),
        fit=Fit(cases=12, worst_error=0.031, mean_error=0.012),
    )  # fmt: skip
    assert model.calibrated
    assert model.describe() == ("calibrated on nucleo (its dwt cycle counter; 12 cases, worst error 3.1%, mean 1.2%)")


def test_a_model_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    for model in (fit_cost(answers((1.07, 0.9, 0.4), 0.01), profile="a", source='a "b" \\ ü'), assumed_cost("b")):
        file = tmp_path / "cost.toml"
        file.write_text(cost_toml(model), encoding="utf-8")
        assert read_cost(file) == model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x =", "cost.toml is not TOML: Invalid value (at end of document)"),
        ('profile = "a"\nsource = "b"', "cost.toml: Object missing required field `cycles_per`"),
        ('profile = "a"\nsource = "b"\n[cycles_per]\ninstructions = -1\nloads = 0\nstores = 0',
         "cost.toml: Expected `float` >= 0.0 - at `$.cycles_per.instructions`"),
        ('profile = "a"\nsource = "b"\n[cycles_per]\ninstructions = nan\nloads = 0\nstores = 0',
         "cost.toml: Expected `float` >= 0.0 - at `$.cycles_per.instructions`"),
        ('format_version = 2\nprofile = "a"\nsource = "b"\n[cycles_per]\ninstructions = 1\nloads = 0\nstores = 0',
         "cost.toml: Invalid enum value 2 - at `$.format_version`"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_its_field(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "cost.toml"
    file.write_text(text)
    with pytest.raises(SettingError) as refused:
        read_cost(file)
    assert refused.value.message == message
