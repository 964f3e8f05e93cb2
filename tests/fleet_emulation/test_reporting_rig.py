# SPDX-License-Identifier: Apache-2.0
"""Reporting under kills, with a real broker and the server's own ingestion: the short form of the campaign."""

import pytest

from fleet_emulation.broker import find_mosquitto
from fleet_emulation.month_offline import month_offline
from fleet_emulation.reporting_rig import ReportingRig


@pytest.fixture(name="rig")
def _rig(tmp_path):
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with ReportingRig(tmp_path / "rig", every_s=0.02) as rig:
        yield rig


def test_kills_of_device_and_broker_lose_nothing_and_count_nothing_twice(rig):
    for kill in range(6):
        rig.start_device()
        rig.wait_until_promised(20 * (kill + 1))
        if kill % 2:
            rig.restart_broker()
            rig.wait_until_promised(20 * (kill + 1) + 10)
        rig.kill_device()
    verdict = rig.settle()
    assert (verdict.lost, verdict.duplicates, verdict.gaps) == (0, 0, 0)
    assert verdict.promised >= 120


def test_a_reflashed_device_is_not_taken_for_one_that_repeats_itself(rig):
    for count in (20, 40):
        rig.start_device()
        rig.wait_until_promised(count)
        rig.settle()
        rig.kill_device()
        for path in rig.folder.glob("outbox.db*"):
            path.unlink()
    assert len({epoch for epoch, _ in rig.promised()}) == 2
    verdict = rig.verdict()
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    assert verdict.stored >= verdict.promised >= 40


def test_a_server_that_is_restored_from_a_backup_has_everything_again(rig):
    rig.start_device()
    rig.wait_until_promised(20)
    backup = rig.back_up()
    rig.wait_until_promised(len(rig.promised()) + 40)
    rig.settle()
    rig.kill_device()
    rig.restore(backup)
    assert rig.verdict().lost > 0
    rig.start_device()  # its next message shows the server that something is missing
    rig.wait_until_promised(len(rig.promised()) + 1)
    verdict = rig.settle()
    assert (verdict.lost, verdict.duplicates, verdict.gaps) == (0, 0, 0)


def test_after_days_offline_every_event_arrives_and_gaps_tell_of_the_rest(tmp_path):
    month = month_offline(tmp_path, minutes=700, limit_bytes=256 << 10, event_every=20)
    assert month.whole
    assert month.evicted > 100
    assert month.gaps > 0
