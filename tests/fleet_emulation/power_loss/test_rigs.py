# SPDX-License-Identifier: Apache-2.0
"""Short forms of the campaigns: every so many-th place where the power can be cut, and each planted fault."""

from dataclasses import replace
from pathlib import Path

import pytest

from fleet_emulation.power_loss import disk_images
from fleet_emulation.power_loss.agent import AgentSubject
from fleet_emulation.power_loss.damaged_pages import damage_pages
from fleet_emulation.power_loss.disk_images import TooSlowError, image_disks
from fleet_emulation.power_loss.kill_sweep import calls_of, kill_sweep
from fleet_emulation.power_loss.lost_writes import lose_writes
from fleet_emulation.power_loss.plants import PLANTS
from fleet_emulation.power_loss.report import RigReport

pytestmark = pytest.mark.usefixtures("traced")


def test_a_killed_update_leaves_a_device_that_answers_and_finishes_it(
    agent_subject: AgentSubject, scratch: Path
) -> None:
    found = kill_sweep(agent_subject, scratch, every=12)
    assert found == RigReport(places=found.places, harmed=0), found.text()
    assert found.places > 10


def test_a_power_cut_leaves_a_device_that_answers_and_finishes_its_update(
    agent_subject: AgentSubject, scratch: Path
) -> None:
    found = lose_writes(agent_subject, scratch, every=140)
    assert found == RigReport(places=found.places, harmed=0), found.text()
    assert found.places > 15


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_missing_fsync_is_seen(agent_subject: AgentSubject, scratch: Path, plant: str) -> None:
    found = lose_writes(replace(agent_subject, plant=PLANTS[plant]), scratch, every=20, enough=1, newest_first=True)
    assert found.harmed == 1, found.text()


def test_an_update_waits_for_the_disk_before_each_promise(agent_subject: AgentSubject, scratch: Path) -> None:
    names = {call.name for call in calls_of(agent_subject, scratch / "recorded")}
    assert {"openat", "pwrite64", "write", "fsync", "fdatasync", "rename", "unlink", "mkdir"} <= names


def image_in_time(subject: AgentSubject, folder: Path, *, every: int, enough: int | None = None) -> RigReport:
    try:
        return image_disks(subject, folder, every=every, enough=enough)
    except TooSlowError as error:
        pytest.skip(error.message)


@pytest.fixture(name="mounting")
def _mounting() -> None:
    if what := disk_images.missing():
        pytest.skip(what)


@pytest.mark.usefixtures("mounting")
def test_a_real_disk_after_a_power_cut_holds_a_device_that_answers(agent_subject: AgentSubject, scratch: Path) -> None:
    found = image_in_time(agent_subject, scratch / "real", every=20)
    assert found == RigReport(places=found.places, harmed=0), found.text()
    assert found.places > 4


@pytest.mark.usefixtures("mounting")
def test_a_planted_missing_fsync_is_seen_on_a_real_disk(agent_subject: AgentSubject, scratch: Path) -> None:
    planted = replace(agent_subject, plant=PLANTS["the bundle's bytes"])
    assert image_in_time(planted, scratch / "planted", every=12, enough=1).harmed == 1


def test_a_device_with_a_damaged_file_answers(agent_subject: AgentSubject, scratch: Path) -> None:
    found = damage_pages(agent_subject, scratch, every=25, moments=3)
    assert found.findings == (), found.text()
    assert found.places > 15
