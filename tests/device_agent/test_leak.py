# SPDX-License-Identifier: Apache-2.0
"""What grows once is a cache; what grows steadily is a leak, and a committed model that leaks is left."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.core.evidence.leak import LEAST_PARTS, LEAST_WORKER_BYTES, Growth, Point, kept_bytes
from edgefleet.contracts.messages import ModelWindow, RunningRelease

MIB = 1 << 20
KIB_A_REQUEST = 1 << 10
FIRST, SECOND = (RunningRelease(name=name, version="1.0.0", bundle_sha256=name[0] * 64) for name in ("a", "b"))


def at(*held_mib):
    return [Point(100 * number, round(mib * MIB)) for number, mib in enumerate(held_mib)]


def test_what_grows_in_each_part_at_a_steady_rate_is_kept_memory():
    assert kept_bytes(at(10, 20, 30, 40, 50)) == 40 * MIB
    assert kept_bytes([Point(0, MIB), Point(50, 2 * MIB), *(Point(100 << k, (3 << k) * MIB) for k in range(4))]) > 0


@pytest.mark.parametrize(
    "points",
    [at(10, 20, 20, 30, 40), at(10, 50, 51, 52, 53), at(10, 20, 30, 40, 40), at(10, 20, 30, 40), at(10, 10, 10, 10, 9)],
    ids=["it stood still once", "ever more slowly", "it stands still now", "too few parts", "it shrinks"],
)
def test_what_grows_once_or_ever_more_slowly_is_a_cache(points):
    assert kept_bytes(points) == 0


def windows(requests, release=FIRST, role="active"):
    return [ModelWindow(release=release, role=role, requests=requests)]


def told_after(held_bytes, *, every=10, limit=1_000_000):
    """Return after how many requests a worker with so much memory after n requests is told of."""
    growth = Growth()
    for requests in range(every, limit, every):
        if growth.look(windows(every), held_bytes(requests)) is not None:
            return requests
    return None


@given(rate=st.integers(1 << 10, 1 << 18), every=st.integers(20, 500))
def test_a_steady_leak_is_told_once_it_is_certain_whatever_its_rate(rate, every):
    told = told_after(lambda requests: 50 * MIB + rate * requests, every=every)
    assert LEAST_WORKER_BYTES / rate <= told <= 1.5 * LEAST_WORKER_BYTES / rate + (LEAST_PARTS + 2) * (64 + every)


def test_a_leak_of_one_kibibyte_a_request_is_told_after_some_ten_thousands_of_requests():
    assert LEAST_WORKER_BYTES // KIB_A_REQUEST == 16_384
    assert 16_384 <= told_after(lambda requests: 50 * MIB + KIB_A_REQUEST * requests) <= 20_480


@given(st.lists(st.integers(0, 256 << 10), min_size=8, max_size=200))
def test_a_worker_whose_memory_goes_up_and_down_is_never_told_of(noise):
    held = [50 * MIB + each + (8 * MIB if number % 7 == 0 else 0) for number, each in enumerate(noise)]
    growth = Growth()
    assert not any(growth.look(windows(64), each) for each in held)


def test_of_several_models_none_is_blamed_and_neither_is_one_whose_memory_is_unknown():
    several, unknown = Growth(), Growth()
    for number in range(1, 2000):
        both = windows(10) + windows(10, SECOND)
        assert several.look(both, number * MIB) is None
        assert unknown.look(windows(10), 0) is None


def leaking(device, bytes_each):
    """Let the worker's memory seem to grow by so much with each answer of the second release."""
    plain, held = device.engine.collect, [100 * MIB]

    def collect():
        collected = plain()
        held[0] += bytes_each * sum(window.requests for window in collected.models if window.role == "active")
        return msgspec.structs.replace(collected, rss_bytes=held[0])

    device.engine.collect = collect


def ask_often(device, requests=64):
    for _ in range(requests):
        device.ask(np.ones((1, 8, 8, 1), np.float32))


def test_a_committed_model_that_leaks_is_left_for_the_one_before(device, device_side, agent_bundles, digits_live):
    for made in (agent_bundles.v1, agent_bundles.v5):
        device_side.assign(device_side.release(made))
        device.until_running(made, digits_live[0])
    leaking(device, 128 << 10)

    def left():
        ask_often(device)
        return ("rollback-verified", "memory-leak") in device.stories()

    device.until(left, "the way back")
    assert device.stories()[-3:] == [
        ("quarantined", "memory-leak"),
        ("rolled-back", "memory-leak"),
        ("rollback-verified", "memory-leak"),
    ]
    told = next(event for event in device.events() if event.kind == "rolled-back")
    assert told.release.bundle_sha256 == agent_bundles.v5.sha256
    assert "requests kept" in told.detail


def test_a_leaky_model_beside_which_there_is_none_stays_in_a_new_worker(
    device, device_side, agent_bundles, digits_live, monkeypatch
):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    ended = []
    inference = device.agent.ports.inference
    monkeypatch.setattr(inference, "kill", lambda why, **how: ended.append((why, how)))
    leaking(device, 128 << 10)

    def renewed():
        ask_often(device)
        return ended

    device.until(renewed, "the worker's end")
    why, how = ended[0]
    assert why.startswith("leaked: ")
    assert how == {"kind": "unexplained", "during": agent_bundles.v1.sha256}
    assert device.stories()[-1] == ("committed", "trial-passed")
