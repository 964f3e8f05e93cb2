# SPDX-License-Identifier: Apache-2.0
"""An application asks on, whatever its agent does, and counts what it did not get."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.inference_protocol import (
    AnswerFrame,
    FeedbackRequest,
    Request,
    decode_request,
    encode_answer,
    frame,
    frame_length,
)
from fleet_emulation.demo.applications import Application
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.rehearsal import wait_until

LIMIT_S = 300.0
Agent = Callable[[Callable[[Request], bool]], Path]


def _answer(connection: socket.socket, hangs_up_on: Callable[[Request], bool]) -> None:
    with connection, connection.makefile("rb") as stream:
        while head := stream.read(4):
            request = decode_request(stream.read(frame_length(head)))
            if hangs_up_on(request):
                return
            connection.sendall(frame(encode_answer(AnswerFrame(status="ok", request_id=7))))


@pytest.fixture(name="agent")
def _agent(tmp_path: Path) -> Iterator[Agent]:
    """A socket that answers as an agent does, but hangs up on some requests."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = tmp_path / "inference.sock"

    def serve(hangs_up_on: Callable[[Request], bool]) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            _answer(connection, hangs_up_on)

    threads: list[threading.Thread] = []

    def start(hangs_up_on: Callable[[Request], bool]) -> Path:
        listening.bind(str(path))
        listening.listen()
        threads.append(threading.Thread(target=serve, args=(hangs_up_on,)))
        threads[0].start()
        return path

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join()


def test_an_application_asks_on_when_the_agent_goes_away_between_an_answer_and_its_label(
    agent: Agent, digits_example: Path
) -> None:
    path = agent(lambda request: isinstance(request, FeedbackRequest))
    stream = LiveStream(digits_example / "digits.npz", seed=0)
    application = Application("dev-1", path, stream, requests_per_s=1000.0)
    try:
        wait_until(lambda: application.failed >= 3, "three labels that nobody took", limit_s=LIMIT_S)
        served = application.served
        wait_until(lambda: application.served > served, "one more answer", limit_s=LIMIT_S)
    finally:
        application.stop()
    assert set(application.failures) == {f"the agent does not answer on '{path}': the worker ended"}
    assert application.failed == len(application.failures)
