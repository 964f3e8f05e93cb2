# SPDX-License-Identifier: Apache-2.0
"""The campaign from faults to the verified previous model, in short: each way back is walked, no request is lost."""

import pytest

from benchmarks.campaign_fault_to_verified import KINDS, faults, figures


@pytest.mark.parametrize(("swap", "kinds"), [("resident", KINDS), ("cold", ("NaN", "crash"))])
def test_after_each_kind_of_fault_the_previous_model_is_verified_and_answers(tmp_path, swap, kinds):
    trials, asked = faults(tmp_path / "device", swap, kinds)
    assert [trial.kind for trial in trials] == list(kinds)
    assert (asked["not_ok"], asked["unanswered"]) == (0, 0)
    found = figures(swap, trials)
    assert {kind: found["kinds"][kind]["faults"] for kind in kinds} == dict.fromkeys(kinds, 1)
    assert all(trial.event_s <= trial.took_s for trial in trials)
