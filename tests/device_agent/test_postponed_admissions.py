# SPDX-License-Identifier: Apache-2.0
"""A board that cannot tell whether a bundle is any good asks again, and never holds it against the bundle."""

import pytest

from benchmarks.zoo import Zoo
from benchmarks.zoo_device import DIGITS, ZooDevice, pack, policy
from device_agent.admission.checks import InProcessAdmission
from device_agent.core.serving import AdmissionVerdict

if not (DIGITS / "v1_float32.tflite").exists():
    pytest.skip("'v1_float32.tflite' is missing in examples/digits", allow_module_level=True)


class Board:
    """Admission on a board that is too busy until it is told otherwise; it notes when it was asked."""

    def __init__(self):
        self.busy, self.asked_at, self.clock = True, [], None

    def admit(self, request):
        self.asked_at.append(self.clock.now_s)
        if self.busy:
            return AdmissionVerdict(kind="postponed", cause="busy", detail="p99 latency 900 us, the budget is 500 us")
        return InProcessAdmission(busy=lambda: False).admit(request)


@pytest.fixture
def zoo():
    return Zoo()


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def device(board, tmp_path):
    device = ZooDevice(tmp_path, admission=board)
    board.clock = device.clock
    return device


def until(device, condition, *, seconds=30.0, feed=list):
    """Let the device live for at most 200 rounds."""
    for _ in range(200):
        if condition():
            return
        device.live(feed(), seconds=seconds)
    raise AssertionError(stories(device))


def stories(device):
    return [(event.kind, event.cause) for event in device.events()]


def test_postponing_is_never_held_against_a_bundle_which_runs_once_the_board_can_tell(device, board, zoo):
    made = pack(zoo.v1, "1.0.0")
    device.shelf.put(made, policy(made, pinned=True, requests=20))
    until(device, lambda: len(board.asked_at) == 40, seconds=300.0)
    waits = [later - sooner for sooner, later in zip(board.asked_at, board.asked_at[1:], strict=False)]
    assert max(waits) <= 600.0
    assert stories(device) == [
        ("agent-started", "clean-start"),
        ("update-found", "ordered"),
        ("verified", "downloaded"),
    ]
    board.busy = False
    until(device, lambda: device.version == "1.0.0", seconds=300.0, feed=lambda: zoo.some(10))
    assert ("admission-passed", "all-checks") in stories(device)
    assert device.agent.record.quarantine == ()


def test_a_bundle_that_no_look_could_tell_of_is_given_back_at_the_deadline_and_taken_at_the_next_order(
    device, board, zoo
):
    made = pack(zoo.v1, "1.0.0")
    device.shelf.put(made, policy(made, pinned=True, requests=20))
    until(device, lambda: ("update-refused", "deadline") in stories(device), seconds=3000.0)
    assert 86400.0 <= device.clock.now_s - board.asked_at[0] <= 86400.0 + 3000.0
    asked = len(board.asked_at)
    told = device.events()[-1]
    assert told.detail == (
        f"postponed {asked} times (busy: p99 latency 900 us, the budget is 500 us); tried again at the next order"
    )
    for _ in range(5):
        device.live([], seconds=3000.0)
    assert (len(board.asked_at), device.agent.status, device.agent.record.quarantine) == (asked, "idle", ())
    board.busy = False
    device.shelf.put(made, policy(made, pinned=True, requests=20))
    until(device, lambda: device.version == "1.0.0", feed=lambda: zoo.some(10))
    assert ("committed", "trial-passed") in stories(device)
