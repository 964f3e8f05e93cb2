# SPDX-License-Identifier: Apache-2.0
"""Holds: applications that must not be disturbed, over real metadata."""

import numpy as np
import pytest

from device_agent.adapters.storage.holds import HOLD_LIMIT_S, Hold, HoldFolder
from device_agent.cli import main

BLANK = np.zeros((1, 8, 8, 1), np.float32)


def test_while_an_application_holds_updates_off_nothing_is_checked_and_nothing_activated(
    device, device_side, agent_bundles, digits_live, capsys
):
    pictures, _ = digits_live
    data = ["--data", str(device.folder.root)]
    assert main(["hold", "robot", "--for", "600", "--reason", "the arm moves", *data]) == 0
    assert HoldFolder(device.folder.holds).reason(device.agent.ports.clock.wall()) == "robot: the arm moves"
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until(lambda: device.agent.status == "staged", "it is staged")
    for _ in range(20):
        device.agent.tick()
    assert device.agent.status == "staged"
    assert main(["hold", "robot", "--release", *data]) == 0
    assert capsys.readouterr().out == "robot holds updates off for 600 s\nrobot holds nothing off\n"
    device.until_running(agent_bundles.v1, pictures)


def test_a_way_back_waits_for_no_hold(device, device_side, agent_bundles, digits_live):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    device_side.assign(device_side.release(agent_bundles.v3))
    device.until(lambda: device.agent.status == "trial", "the trial begins", pictures)
    HoldFolder(device.folder.holds).put("robot", Hold(until=device.agent.ports.clock.wall() + 600.0))
    device.ask(BLANK)
    device.until(lambda: ("rollback-verified", "non-finite") in device.stories(), "the proof")


def test_a_hold_ends_by_itself_and_one_that_cannot_be_read_still_holds(tmp_path):
    holds = HoldFolder(tmp_path / "holds")
    assert holds.reason(0.0) == ""
    holds.put("robot", Hold(until=50.0, reason="moving"))
    assert (holds.reason(49.0), holds.reason(50.0)) == ("robot: moving", "")
    (tmp_path / "holds" / "press.json").write_bytes(b"{")
    written = (tmp_path / "holds" / "press.json").stat().st_mtime
    assert holds.reason(written + 1.0) == "press: a hold that cannot be read"
    assert holds.reason(written + HOLD_LIMIT_S) == ""
    holds.release("nobody")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Robot!", "--for", "5"], "error: 'Robot!' is no name for a hold\n"),
        (["robot", "--for", "1e9"], "error: a hold of 1e+09 s is too long\n"),
    ],
)
def test_a_hold_that_cannot_be_is_refused_with_a_sentence(arguments, message, tmp_path, capsys):
    assert main(["hold", *arguments, "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_hold_makes_no_data_folder(tmp_path, capsys):
    missing = tmp_path / "data"
    assert main(["hold", "robot", "--for", "5", "--data", str(missing)]) == 2
    assert capsys.readouterr().err == f"error: there is no folder '{missing}'\nhint: name the device's data folder\n"
    assert not missing.exists()
