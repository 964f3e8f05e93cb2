# SPDX-License-Identifier: Apache-2.0
"""Fleets of emulated boards and Linux devices: all up at once, all answering, and nothing left behind."""

import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.errors import InputError, UnreachableError
from fleet_emulation.linux_devices.device import missing
from fleet_emulation.testing.fleet import shares
from fleet_emulation.testing.frames import REQUEST, frame

pytestmark = pytest.mark.boards

if TYPE_CHECKING:
    from fleet_emulation.testing.fixture import EdgeFleet

TEMPLATE = files("fleet_emulation.emulate") / "template"
EMULATED = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "rv32-virt")


@pytest.fixture(scope="module")
def model() -> bytes:
    return (TEMPLATE / "digits_int8.tflite").read_bytes()


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    with (TEMPLATE / "vectors.npz").open("rb") as stream, np.load(stream) as stored:
        return dict(stored)


@pytest.mark.slow
def test_a_hundred_boards_and_two_linux_devices_are_up_at_once_and_leave_no_process(
    edgefleet: "EdgeFleet",
    model: bytes,
    vectors: dict[str, np.ndarray],
    record_property: Callable[[str, object], None],
) -> None:
    if reason := missing():
        pytest.skip(reason)
    began_s = time.monotonic()
    boards = {**dict.fromkeys(EMULATED[:4], 20), **dict.fromkeys(EMULATED[4:], 10)}
    fleet = edgefleet.fleet(102, {**boards, "raspberry-pi-3": 1, "raspberry-pi-4": 1}, model=model)
    fleet.start()
    up_s = time.monotonic() - began_s
    pids = fleet.pids
    assert len(set(pids)) == 102
    answers = fleet.infer(vectors["inputs"][0])
    named = zip(fleet.members, answers, strict=True)
    assert [member.name for member, answer in named if not np.array_equal(answer, vectors["outputs"][0])] == []
    answered_s = time.monotonic() - began_s
    assert fleet.pids == pids
    fleet.close()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    gone_s = time.monotonic() - began_s
    record_property("seconds", f"102 up in {up_s:.1f}, answered after {answered_s:.1f}, gone after {gone_s:.1f}")


def test_a_board_of_each_kind_answers_as_the_reference_does(
    edgefleet: "EdgeFleet", model: bytes, vectors: dict[str, np.ndarray]
) -> None:
    fleet = edgefleet.fleet(len(EMULATED), EMULATED, model=model)
    for sample, expected in zip(vectors["inputs"][:3], vectors["outputs"], strict=False):
        assert all(np.array_equal(answer, expected) for answer in fleet.infer(sample))
    edgefleet.power.cut(fleet.boards[0])
    with pytest.raises(UnreachableError, match="the emulated mps2-an385 number 1 is off"):
        fleet.infer(vectors["inputs"][0])
    edgefleet.power.restore(fleet.boards[0])
    assert all(np.array_equal(answer, vectors["outputs"][0]) for answer in fleet.infer(vectors["inputs"][0]))


def test_a_request_that_is_damaged_is_refused_and_the_next_one_answered(
    edgefleet: "EdgeFleet", model: bytes, vectors: dict[str, np.ndarray]
) -> None:
    board = edgefleet.board("mps2-an386", model=model)
    board.start()
    good = frame(REQUEST, vectors["inputs"][0].tobytes())
    bad = bytearray(good)
    bad[20] ^= 1
    for request, kind in ((bytes(bad), b"E"), (frame(REQUEST, b"short"), b"E"), (b"noise" + good, b"A")):
        board.uart.write(request)
        assert board.uart.read(2) == b"\x7e" + kind
        board.uart.read(int.from_bytes(board.uart.read(4), "little") + 4)


@pytest.mark.parametrize(
    ("count", "mix", "expected"),
    [
        (5, ["a", "b"], {"a": 3, "b": 2}),
        (102, {"a": 60, "b": 40, "c": 2}, {"a": 60, "b": 40, "c": 2}),
        (10, {"a": 0.05, "b": 0.95}, {"a": 1, "b": 9}),
        (1, {"a": 1, "b": 0}, {"a": 1}),
    ],
)
def test_a_mix_is_shared_out_by_largest_remainder(
    count: int, mix: "dict[str, float]", expected: dict[str, int]
) -> None:
    assert shares(count, mix) == expected


@given(st.integers(1, 500), st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1))
def test_a_fleet_has_as_many_devices_as_were_asked_for(count: int, mix: dict[str, float]) -> None:
    found = shares(count, mix)
    whole = sum(mix.values())
    assert sum(found.values()) == count
    assert all(abs(found.get(name, 0) - count * part / whole) < 1 + 1e-6 for name, part in mix.items())


@pytest.mark.parametrize(("count", "mix"), [(0, ["a"]), (3, []), (3, {"a": 0.0}), (3, {"a": 2.0, "b": -1.0})])
def test_a_fleet_of_nothing_is_refused(count: int, mix: "dict[str, float]") -> None:
    with pytest.raises(InputError, match=f"a fleet of {count} devices cannot be made of"):
        shares(count, mix)
