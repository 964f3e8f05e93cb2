# SPDX-License-Identifier: Apache-2.0
"""Short forms of the campaigns: kill -9 at random moments of updates and rollouts, and an update under load."""

import random
import time

import pytest

from fleet_emulation.kills import (
    VICTIMS,
    kill_agent,
    kill_server,
    lost_rollouts,
    moments,
    orders_given_twice,
    undisturbed_s,
)
from fleet_emulation.rehearsal import Rehearsal

UPDATE_S = 6.0


@pytest.fixture(name="seed")
def _seed() -> int:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    return seed


@pytest.mark.slow
def test_a_good_update_under_load_fails_no_request_on_any_agent(rehearsal: Rehearsal) -> None:
    before = [(application.served, len(application.failures)) for application in rehearsal.applications]
    started = time.monotonic()
    undisturbed_s(rehearsal)
    for application, (served, failed) in zip(rehearsal.applications, before, strict=True):
        assert application.failures[failed:] == []
        assert application.served > served + 50
        releases = [answer.release for answer in application.answers if answer.at >= started]
        assert len(set(releases)) == 2, "the old release answers until the new one does, and then never again"
        assert releases == sorted(releases, key=releases.index)


@pytest.mark.slow
def test_an_agent_that_is_killed_during_an_update_comes_back_with_a_verified_model_and_loses_no_message(
    rehearsal: Rehearsal, seed: int
) -> None:
    victims = [*VICTIMS, random.Random(seed).choice(VICTIMS)]
    for victim, after_s in zip(victims, moments(seed, len(victims), within_s=UPDATE_S), strict=True):
        kill = kill_agent(rehearsal, 0, victim=victim, after_s=after_s)
        print(kill)  # noqa: T201 - shown when the test fails
        assert (kill.answer, kill.verified, kill.rollout) == ("ok", True, "completed")
        assert (kill.lost, kill.epochs) == (0, 1)
        assert kill.messages > 0


@pytest.mark.slow
def test_a_server_that_is_killed_during_a_rollout_loses_none_and_gives_no_device_two_orders(
    rehearsal: Rehearsal, seed: int
) -> None:
    for after_s in moments(seed, 2, within_s=UPDATE_S):
        kill = kill_server(rehearsal, after_s=after_s)
        print(kill)  # noqa: T201 - shown when the test fails
        assert kill.rollout == "completed"
    assert lost_rollouts(rehearsal) == []
    assert orders_given_twice(rehearsal.bed) == []
