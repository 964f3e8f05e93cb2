# SPDX-License-Identifier: Apache-2.0
"""The short form of the zoo (benchmarks/campaign_bad_models.py): bad models are caught, innocent faults are not."""

import pytest

from benchmarks import zoo_parents
from benchmarks.campaign_bad_models import healthy
from benchmarks.zoo import HONEST, KINDS, OWN, UNPINNED, WAITING, Zoo, bad, kinds_of
from benchmarks.zoo_device import DIGITS
from benchmarks.zoo_innocents import SLOW_DISK_US, innocent_faults, lacking

if not (DIGITS / "v1_float32.tflite").exists():
    pytest.skip("'v1_float32.tflite' is missing in examples/digits", allow_module_level=True)
#: Of each parent that is not in the repository a few kinds; the campaign offers all of them.
ELSEWHERE = [
    ("vww_float32.tflite", "wrong preprocessing", UNPINNED),
    ("ic_resnet8_float32.tflite", "wrong calibration", UNPINNED),
    ("kws_int8.tflite", "swapped labels", UNPINNED),
    ("kws_int8.tflite", "bit flips", OWN),
    ("ad_float32.tflite", "wrong scale", HONEST),
]


@pytest.fixture
def zoo():
    return Zoo()


def check_that_it_is_caught(zoo, name, stance):
    outcome, kind = bad(zoo, name, stance), (KINDS | WAITING)[name]
    assert (outcome.version, outcome.cause in kind.causes) == ("1.0.0", True), outcome
    return outcome


def test_the_zoo_has_the_fourteen_kinds_by_name():
    assert list(KINDS) == [
        "wrong calibration",
        "swapped labels",
        "missing classes",
        "NaN",
        "inf",
        "wrong scale",
        "slow",
        "memory leak",
        "crash in load",
        "crash in invoke",
        "hang",
        "bit flips",
        "wrong preprocessing",
        "undertrained",
    ]


@pytest.mark.parametrize("name", [*KINDS, *sorted(set(WAITING) - {"hang on blank", "crash on blank"})])
def test_a_bad_model_that_its_maker_signed_for_good_is_refused_or_rolled_back_by_the_right_cause(zoo, name):
    stance = kinds_of(zoo.parent)[name].stances(zoo.parent)[-1]
    outcome = check_that_it_is_caught(zoo, name, stance)
    if name in WAITING:
        assert outcome.where == ("after commit" if WAITING[name].commits else "shadow")


@pytest.mark.parametrize("stance", [HONEST, OWN])
def test_a_bad_model_does_not_pass_honest_vectors_nor_pinned_examples(zoo, stance):
    outcome = check_that_it_is_caught(zoo, "undertrained", stance)
    assert outcome.cause == ("parity-reference" if stance == HONEST else "acceptance")


@pytest.mark.parametrize(("file", "name", "stance"), ELSEWHERE)
def test_bad_models_of_other_parents_are_caught_too(file, name, stance):
    if file in zoo_parents.missing():
        pytest.skip(zoo_parents.missing()[file])
    check_that_it_is_caught(Zoo(zoo_parents.SHARED_PARENTS[file]()), name, stance)


@pytest.mark.parametrize("name", list(innocent_faults(Zoo())))
def test_an_innocent_fault_rolls_nothing_back_and_a_changed_input_is_told(zoo, name, tmp_path):
    if lacking(name):
        pytest.skip(lacking(name))
    outcome = innocent_faults(zoo, SLOW_DISK_US)[name](tmp_path)
    assert (outcome.kind, outcome.version) == ("committed", "2.0.0"), outcome
    if name in ("inverted input", "dark input", "frozen input", "changed class mix"):
        assert outcome.alerts >= 1
    elif name != "shifted input":  # which is told once there are more answers than a short trial has
        assert outcome.alerts == 0


def test_healthy_updates_with_reboots_and_lost_power_at_random_moments_all_commit(zoo, tmp_path):
    device = zoo.device(tmp_path)
    assert [healthy(zoo, device, number).kind for number in range(3)] == ["committed"] * 3
