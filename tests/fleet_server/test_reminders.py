# SPDX-License-Identifier: Apache-2.0
"""A hint that was lost is given again, and less and less often."""

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet_server.adapters.devices.order_store import Hinted
from fleet_server.adapters.releases.release_store import ReleaseStore
from fleet_server.adapters.rollouts.rollout_engine import RolloutEngine
from fleet_server.adapters.storage.database import Database
from fleet_server.core.rollouts.reminders import Waiting, remind

LOOKS = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)), max_size=60)


def test_a_device_has_two_seconds_and_is_then_reminded_after_pauses_that_double() -> None:
    waiting: dict[str, Waiting] = {}
    moments = []
    for now in range(1000):
        waiting, reminded = remind(waiting, {"d1": 4}, float(now))
        if reminded:
            assert reminded == {"d1": 4}
            moments.append(now)
    assert moments == [2, 6, 14, 30, 62, 126, 254, 510, 810]


def test_a_new_order_begins_anew_and_a_device_that_saw_its_order_is_left_alone() -> None:
    waiting, reminded = remind({"d1": Waiting(4, 10.0, 300.0), "d2": Waiting(1, 0.0, 2.0)}, {"d1": 5}, 20.0)
    assert (waiting, reminded) == ({"d1": Waiting(5, 22.0, 2.0)}, {})


@given(LOOKS)
def test_only_devices_that_are_behind_are_reminded_and_only_of_their_newest_order(looks: list[dict[str, int]]) -> None:
    waiting: dict[str, Waiting] = {}
    for number, behind in enumerate(looks):
        waiting, reminded = remind(waiting, behind, float(number))
        assert waiting.keys() == behind.keys()
        assert reminded.items() <= behind.items()


def test_the_engine_reminds_connected_devices_that_have_not_seen_their_newest_order(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db")
    database.migrate()
    with database.write() as connection:
        for name, connected, seen in (("late", 1, 1), ("up-to-date", 1, 2), ("away", 0, 1), ("silent", None, None)):
            connection.exec_driver_sql(
                "INSERT INTO device (name, profile, invited_at, enrolled_at) VALUES (?, 'p', 1.0, 1.0)", (name,)
            )
            for counter in (1, 2):
                connection.exec_driver_sql(
                    "INSERT INTO assignment (device, counter, purpose, created_at) VALUES (?, ?, 'rollout', 1.0)",
                    (name, counter),
                )
            if connected is not None:
                connection.exec_driver_sql(
                    "INSERT INTO device_state (device, connected, status, counter, body, received_at) "
                    "VALUES (?, ?, 'idle', ?, '{}', 1.0)",
                    (name, connected, seen),
                )
    hinted: list[Any] = []
    now = [100.0]
    nothing: Any = None
    releases = ReleaseStore(database, nothing, tmp_path, lambda: now[0])
    engine = RolloutEngine(database, releases, nothing, lambda: now[0], time_scale=1.0, hint=hinted.extend)
    engine.remind()
    assert hinted == [], "its first hint may be under way"
    now[0] = 102.5
    engine.remind()
    assert hinted == [Hinted("late", 2)]
    database.close()
