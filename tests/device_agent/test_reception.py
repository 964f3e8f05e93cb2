# SPDX-License-Identifier: Apache-2.0
"""The worker's reception without a process around it: a slow model beside a quick one, deadlines, a cold plan."""

import os
import select
import socket
import struct
import threading
import time

import pytest

from device_agent.core.serving import ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.inference_protocol import InferRequest, Tensor, decode_answer, encode_request, frame
from device_agent.worker.applications import Applications
from device_agent.worker.backlog import WAITING_LIMIT
from device_agent.worker.engine import Engine
from device_agent.worker.reception import Reception
from device_agent.worker.sessions import Session
from edgefleet.contracts.messages import RunningRelease

#: Ends a test that fails.
LIMIT_S = 120.0


class SlowModel(Engine):
    """An engine whose model `slow` answers when the test lets it."""

    def __init__(self):
        super().__init__(random=lambda: 1.0, nonce=1)
        self.gate = threading.Event()

    def infer(self, raw, model=""):
        if model == "slow":
            assert self.gate.wait(LIMIT_S)
        return super().infer(raw, model)


class Hall:
    """A reception with applications at socket pairs."""

    def __init__(self, engine):
        self.engine = engine
        self.awake, wake = os.pipe()
        self.reception = Reception(engine, Applications(engine), wake)
        self.reception._costs["slow"] = 1000.0  # as if it had taken so many seconds so far

    def enter(self):
        near, far = socket.socketpair()
        near.settimeout(LIMIT_S)
        return near, Session(far)

    def ask(self, guest, picture, model, deadline_s=0.0):
        near, session = guest
        deadline_us = int((time.monotonic() + deadline_s) * 1e6) if deadline_s else 0
        request = InferRequest((Tensor("float32", picture.shape, picture.tobytes()),), deadline_us, model)
        near.sendall(frame(encode_request(request)))
        session.readable()
        self.reception.hear(session)

    def work(self):
        for _ in self.reception.work():
            pass

    def wait_for_lane(self):
        assert select.select([self.awake], [], [], LIMIT_S)[0]
        os.read(self.awake, 4096)
        return self.reception.take_answered()


def _answer(guest):
    head = guest[0].recv(4, socket.MSG_WAITALL)
    return decode_answer(guest[0].recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL))


@pytest.fixture
def hall(tmp_path, agent_bundles):
    path = tmp_path / "v1.bundle"
    path.write_bytes(agent_bundles.v1.data)
    engine = SlowModel()
    planned = tuple(
        PlannedModel(
            primary=ModelRef(
                path=str(path),
                release=RunningRelease(name=name, version="1.0.0", bundle_sha256=agent_bundles.v1.sha256),
            )
        )
        for name in ("quick", "slow")
    )
    assert isinstance(engine.serve(ServingPlan(number=1, models=planned)), Serving)
    yield Hall(engine)
    engine.gate.set()


def test_a_quick_model_does_not_wait_for_a_slow_one(hall, digits_live):
    one, other = hall.enter(), hall.enter()
    hall.ask(one, digits_live[0][0], "slow")
    hall.work()
    hall.ask(other, digits_live[0][0], "quick", deadline_s=LIMIT_S)
    hall.work()
    assert _answer(other).status == "ok"
    assert hall.reception.busy
    hall.engine.gate.set()
    while not hall.wait_for_lane():
        pass
    assert _answer(one).status == "ok"


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_once(hall, digits_live):
    first, second, third = hall.enter(), hall.enter(), hall.enter()
    hall.ask(first, digits_live[0][0], "slow")
    hall.ask(second, digits_live[0][0], "slow", deadline_s=500.0)
    assert _answer(second).status == "busy"
    hall.ask(third, digits_live[0][0], "slow", deadline_s=-1.0)
    assert _answer(third).status == "deadline"


def test_requests_wait_while_a_cold_plan_is_loaded_and_are_answered_after_it(hall, digits_live):
    plan = ServingPlan(number=2, swap="cold")
    hall.engine.hold(plan)
    guest = hall.enter()
    hall.ask(guest, digits_live[0][0], "quick")
    hall.work()
    assert select.select([guest[0]], [], [], 0)[0] == []
    assert hall.reception.wait_s() is None
    patient = hall.enter()
    hall.ask(patient, digits_live[0][0], "quick", deadline_s=1.8e13)  # about as late as 64 bits can say
    assert select.select([], [patient[0]], [], hall.reception.wait_s())[1] == [patient[0]]
    hall.engine.switch(hall.engine.prepare(hall.engine._now.plan))
    assert hall.reception.wait_s() == 0.0
    hall.work()
    assert _answer(guest).status == "ok"


def _said(guest):
    """Return how many answers wait for a guest."""
    answers = 0
    while select.select([guest[0]], [], [], 0)[0]:
        assert _answer(guest).status == "ok"
        answers += 1
    return answers


def test_of_many_requests_at_once_one_is_taken_a_turn_and_others_are_heard_between(hall, digits_live):
    greedy, modest = hall.enter(), hall.enter()
    hall.ask(greedy, digits_live[0][0], "quick")
    assert _said(greedy) == 1
    picture = digits_live[0][0]
    body = frame(encode_request(InferRequest((Tensor("float32", picture.shape, picture.tobytes()),), 0, "quick")))
    greedy[0].sendall(3 * body + frame(b""))
    greedy[1].readable()
    hall.reception.hear(greedy[1])
    assert (_said(greedy), hall.reception.wait_s()) == (1, 0.0)
    hall.ask(modest, picture, "quick")
    assert _said(modest) == 1
    hall.work()
    hall.work()
    assert _said(greedy) == 2
    hall.work()
    assert _answer(greedy).status == "bad-input"  # what cannot be read is told without a byte more
    assert hall.reception.wait_s() is None


def test_what_waits_for_its_turn_is_enough_for_now(hall, digits_live):
    near, session = hall.enter()
    body = frame(encode_request(InferRequest((Tensor("uint8", (1 << 18,), bytes(1 << 18)),), 0, "quick")))
    near.sendall(body[: 1 << 17])
    session.readable()
    assert session.wants_to_read  # the rest of it
    near.sendall(body[1 << 17 :])
    session.readable()
    assert not session.wants_to_read
    hall.reception.hear(session)
    assert session.wants_to_read


def test_who_went_while_a_model_is_loaded_keeps_nobody_out(hall, digits_live):
    hall.engine.hold(ServingPlan(number=2, swap="cold"))
    for _ in range(WAITING_LIMIT):
        guest = hall.enter()
        hall.ask(guest, digits_live[0][0], "quick")
        hall.reception.forget(guest[1])
        guest[1].close()
        guest[0].close()
    late = hall.enter()
    hall.ask(late, digits_live[0][0], "quick")
    hall.engine.switch(hall.engine.prepare(hall.engine._now.plan))
    hall.work()
    assert _said(late) == 1
