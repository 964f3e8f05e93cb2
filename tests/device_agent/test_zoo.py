# SPDX-License-Identifier: Apache-2.0
"""The short form of the zoo (benchmarks/campaign_bad_models.py): bad models are caught, innocent faults are not."""

import pytest

from benchmarks.bad_models import EVERYWHERE, WAITING
from benchmarks.campaign_bad_models import RIGHT_CAUSES, STANCES, Zoo, bad, healthy, innocent_faults
from benchmarks.zoo_device import DIGITS

if not (DIGITS / "v1_float32.tflite").exists():
    pytest.skip("'v1_float32.tflite' is missing in examples/digits", allow_module_level=True)


@pytest.fixture
def zoo():
    return Zoo()


@pytest.mark.parametrize("name", [*EVERYWHERE, *WAITING])
def test_a_bad_model_that_its_maker_signed_for_good_is_refused_or_rolled_back_by_the_right_cause(zoo, name):
    outcome = bad(zoo, name, STANCES[2])
    assert (outcome.version, outcome.cause in RIGHT_CAUSES[name]) == ("1.0.0", True), outcome


@pytest.mark.parametrize("name", ["undertrained"])
@pytest.mark.parametrize("stance", STANCES[:2])
def test_a_bad_model_does_not_pass_honest_vectors_nor_pinned_examples(zoo, name, stance):
    outcome = bad(zoo, name, stance)
    assert (outcome.version, outcome.kind) == ("1.0.0", "admission-refused")
    assert outcome.cause == ("parity-reference" if stance == STANCES[0] else "acceptance")


@pytest.mark.parametrize("name", list(innocent_faults(Zoo())))
def test_an_innocent_fault_rolls_nothing_back_and_a_changed_input_is_told(zoo, name, tmp_path):
    outcome = innocent_faults(zoo)[name](tmp_path)
    assert (outcome.kind, outcome.version) == ("committed", "2.0.0"), outcome
    if name in ("inverted input", "dark input", "frozen input", "changed class mix"):
        assert outcome.alerts >= 1
    elif name != "shifted input":  # which is told once there are more answers than a short trial has
        assert outcome.alerts == 0


def test_healthy_updates_with_reboots_and_lost_power_at_random_moments_all_commit(zoo, tmp_path):
    device = zoo.device(tmp_path)
    assert [healthy(zoo, device, number).kind for number in range(3)] == ["committed"] * 3
