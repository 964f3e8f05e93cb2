# SPDX-License-Identifier: Apache-2.0
"""The campaign of worker kills, in short: the agent lives on, requests are answered, a crash loop ends the model."""

from benchmarks.campaign_worker_kills import kills


def test_the_agent_outlives_its_workers_and_leaves_a_release_that_crashes_again_and_again(tmp_path):
    result = kills(tmp_path, 4, storm=2)
    assert (result["kills"], result["supervisor_restarts"], result["zombies"]) == (4, 0, 0)
    assert result["supervisor_grew_mib"] < 2
    assert (len(result["storm_back_s"]), result["storm_blamed"]) == (2, 0)
    for part in (result, *result["above_the_limit"]):
        assert (part["application"]["unanswered"], part["application"]["not_ok"]) == (0, 0)
    deaths = ["worker-restarted (crash)"] * 5
    assert [part["events"] for part in result["above_the_limit"]] == [
        [*deaths, *(f"{kind} (crash-loop)" for kind in ("quarantined", "rolled-back", "rollback-verified"))],
        [*deaths, *(f"{kind} (crash-loop)" for kind in ("quarantined", "rolled-back", "safe-mode"))],
    ]
    assert [(part["then_state"], part["then_answers"]) for part in result["above_the_limit"]] == [
        ("idle", "digits 1.0.0"),
        ("safe-mode", "digits 0.9.0"),
    ]
