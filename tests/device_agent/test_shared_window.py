# SPDX-License-Identifier: Apache-2.0
"""Both ends of the shared memory without a process around them: every way of waiting, forms, ends, earlier rings."""

import contextlib
import socket
import struct
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.client_pace import Plan
from device_agent.client_window import SharedWindow
from device_agent.core.serving import ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.inference_protocol import ANSWER_RING_BODY, InferRequest, Tensor, encode_request, frame
from device_agent.shared_memory import CLIENT_SLEEPS, LENGTH, attach
from device_agent.worker.door import Door
from device_agent.worker.engine import Engine
from device_agent.worker.places import Reply
from device_agent.worker.replies import ReplyWriter, encoded
from edgefleet.contracts.messages import RunningRelease

#: Ends a test that fails.
LIMIT_S = 120.0
#: Ways to wait: look at once, sleep until a ring, sleep first and look then, and that with nothing left to look for.
PLANS = [Plan(0.0, LIMIT_S), Plan(0.0, 0.0), Plan(LIMIT_S, LIMIT_S), Plan(1e-6, LIMIT_S), Plan(1e-6, 1e-6)]
PICTURE = np.arange(6, dtype=np.float32).reshape(2, 3)


class Ends:
    """A window and a door on one memory, with a thread at the door that answers with the sum of the numbers."""

    def __init__(self):
        self.near, self.far = socket.socketpair()
        self.near.settimeout(LIMIT_S)
        self.door = Door(4096, 4096)
        self.window = SharedWindow(self.near, attach(self.door.descriptor), self._no_frame)
        self.thread = threading.Thread(target=self._answer, daemon=True)

    def _no_frame(self, _deadline):
        raise AssertionError("no answer comes by the socket here")

    def _answer(self):
        with contextlib.suppress(ConnectionResetError):  # rings that nobody took any more
            while self.far.recv(64):
                if self.door.requested:
                    asked = self.door.take()
                    total = int(sum(array.sum() for array in asked.raw))
                    self.door.answer(Reply("ok", request_id=total, top_class=asked.deadline_us))
                    if self.door.client_sleeps():
                        self.far.sendall(frame(ANSWER_RING_BODY))

    def wait_as(self, plan):
        for pace in self.window._paces or ():  # there are none where this machine has one processor: one always sleeps
            pace.plan = plan

    def ask(self, value, plan, deadline_us=0):
        self.wait_as(plan)
        answer = self.window.repeated(value, deadline_us, LIMIT_S)
        if answer is None:
            tensor = Tensor(value.dtype.name, value.shape, value.tobytes())
            body = encode_request(InferRequest((tensor,), deadline_us))
            answer = self.window.first(body, (value,), time.monotonic() + LIMIT_S)
        return answer.request_id, answer.top_class

    def close(self):
        self.near.close()
        self.thread.join(LIMIT_S)
        self.far.close()
        self.window.close()
        self.door.close()


@pytest.fixture
def ends():
    made = Ends()
    made.thread.start()
    yield made
    made.close()


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(PLANS),
            st.sampled_from([(2, 3), (3, 2), (6,), (1, 7)]),
            st.sampled_from(["float32", "int8"]),
            st.sampled_from([0, 5, 900]),
        ),
        max_size=30,
    )
)
def test_each_request_gets_its_own_answer_however_one_waits(requests):
    ends = Ends()
    ends.thread.start()
    try:
        for number, (plan, shape, dtype, deadline_us) in enumerate(requests):
            value = np.full(shape, number, dtype)
            assert ends.ask(value, plan, deadline_us) == (number * value.size, deadline_us)
    finally:
        ends.close()


@pytest.mark.parametrize("plan", PLANS[1:])
def test_an_earlier_ring_is_no_answer(ends, plan):
    for number in range(5):
        ends.far.sendall(frame(ANSWER_RING_BODY) * 3)
        assert ends.ask(PICTURE + number, plan)[0] == 15 + 6 * number


@pytest.mark.parametrize("plan", [Plan(0.0, 1e-6), Plan(0.0, 0.0), Plan(1e-6, 1e-6), Plan(LIMIT_S, LIMIT_S)])
def test_a_worker_that_ends_in_a_request_is_noticed(ends, plan):
    ends.ask(PICTURE, PLANS[0])
    ends.door.look_for(looking=True)  # so that nothing is sent to it
    ends.far.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionResetError, match="the worker ended"):
        ends.ask(PICTURE, plan)
    assert ends.window._words[CLIENT_SLEEPS] == 0


@pytest.mark.parametrize("plan", PLANS)
def test_the_time_limit_ends_every_way_of_waiting(plan):
    ends = Ends()  # nobody is at the door
    ends.wait_as(plan)
    body = encode_request(InferRequest((Tensor("float32", PICTURE.shape, PICTURE.tobytes()),)))
    with pytest.raises(TimeoutError):
        ends.window.first(body, (PICTURE,), 0.0)


def test_an_answer_in_mid_write_is_not_read(ends):
    """The number of the answer is written last: what lies there before is an earlier answer, or part of this one."""
    ends.ask(PICTURE, PLANS[0])
    memory = ends.door.memory
    LENGTH.pack_into(memory.view, memory.answer_at, 0xFFFF)
    memory.view[memory.answer_at + 4 : memory.answer_at + 24] = b"\xff" * 20
    assert ends.ask(PICTURE, PLANS[0]) == (15, 0)


def test_an_application_that_goes_while_it_is_answered_harms_nobody(ends):
    ends.ask(PICTURE, PLANS[0])
    ends.near.close()
    ends.thread.join(LIMIT_S)
    assert ends.door.answer(Reply("ok", request_id=7)) is None
    answered = ends.door.memory.answer_at + LENGTH.size
    assert struct.unpack_from("<Q", ends.door.memory.view, answered + 4) == (7,)


def test_answers_written_in_the_short_way_are_the_encoded_ones(tmp_path, agent_bundles, digits_live):
    path = tmp_path / "v1.bundle"
    path.write_bytes(agent_bundles.v1.data)
    release = RunningRelease(name="digits", version="1.0.0", bundle_sha256=agent_bundles.v1.sha256)
    engine = Engine(random=lambda: 1.0, nonce=1)
    plan = ServingPlan(number=1, models=(PlannedModel(primary=ModelRef(path=str(path), release=release)),))
    assert isinstance(engine.serve(plan), Serving)
    buffer = memoryview(bytearray(4096))
    writer = ReplyWriter(buffer)
    for picture in digits_live[0][:40]:
        for reply in (engine.infer([picture]), engine.infer([picture[None]]), engine.infer([picture[:2]])):
            size_bytes = writer.write(reply)
            assert bytes(buffer[:size_bytes]) == encoded(reply)
