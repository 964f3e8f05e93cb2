# SPDX-License-Identifier: Apache-2.0
"""The campaign of worker kills, in short: after each there is an answer again, and the supervisor does not grow."""

from benchmarks.campaign_worker_kills import kills


def test_a_killed_worker_is_there_again_and_the_supervisor_does_not_grow(tmp_path):
    result = kills(tmp_path, 4, storm=2)
    assert result["kills"] == 4
    assert len(result["storm_back_s"]) == 2
    assert result["supervisor_grew_mib"] < 2
