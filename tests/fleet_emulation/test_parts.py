# SPDX-License-Identifier: Apache-2.0
"""The pieces that emulated fleets are made of, each against the real thing."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgefleet.contracts.errors import EdgeFleetError, UnreachableError
from edgefleet.contracts.manifest import Fact
from fleet_emulation.broker import Broker, find_mosquitto, free_port, wait_for_port
from fleet_emulation.command import edgefleet, require
from fleet_emulation.listeners import Listener, listeners
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.processes import Program
from fleet_emulation.rehearsal import wait_until

LISTEN_ON = """
import json, socket, sys
made = socket.socket(getattr(socket, sys.argv[1]))
made.bind((sys.argv[2], 0))
made.listen()
print(json.dumps({"port": made.getsockname()[1]}), flush=True)
sys.stdin.read() or __import__("signal").pause()
"""


class PortReady(Fact, frozen=True, kw_only=True):
    port: int


@pytest.mark.parametrize(
    ("family", "address", "on_loopback"),
    [("AF_INET", "127.0.0.1", True), ("AF_INET6", "::1", True), ("AF_INET", "127.1.2.3", True)],
)
def test_a_listening_socket_of_a_program_is_found_with_its_address(
    tmp_path: Path, family: str, address: str, on_loopback: bool
) -> None:
    with contextlib.suppress(OSError), socket.socket(getattr(socket, family)) as probe:
        probe.bind((address, 0))
        command = [sys.executable, "-c", LISTEN_ON, family, address]
        with Program("a listener", command, log=tmp_path / "log") as program:
            ready = program.ready(PortReady)
            found = listeners([program.pid])
            assert found == [Listener(program.pid, address, ready.port)]
            assert found[0].on_loopback == on_loopback
            assert found[0] in listeners([os.getpid()]), "children count as well"
        assert listeners([program.pid]) == [], "a program that ended listens nowhere"
        return
    pytest.skip(f"this machine has no {address}")


def test_a_connected_socket_does_not_listen() -> None:
    before = set(listeners([os.getpid()]))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert set(listeners([os.getpid()])) - before == {Listener(os.getpid(), *server.getsockname())}


@pytest.mark.parametrize(
    ("address", "on_loopback"),
    [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False)],  # noqa: S104
)
def test_only_loopback_addresses_count_as_loopback(address: str, on_loopback: bool) -> None:
    assert Listener(1, address, 80).on_loopback == on_loopback


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_broker_carries_a_retained_message_on_loopback_only(tmp_path: Path, kind: str) -> None:
    if kind == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    broker = Broker(tmp_path / "broker", kind=kind)
    seen: list[bytes] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.on_message = lambda _client, _data, message: seen.append(message.payload)
    try:
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert [(x.address, x.port) for x in listeners([broker.program.pid])] == [("127.0.0.1", broker.port)]
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        client.publish("edgefleet/v1/demo/dev-1/state", b"here", qos=1, retain=True).wait_for_publish(120)
        client.subscribe("edgefleet/v1/demo/+/state", qos=1)
        wait_until(lambda: seen, "the retained message", limit_s=120)
        assert seen == [b"here"]
    finally:
        client.disconnect()
        client.loop_stop()
        broker.stop()
    assert not broker.program.running


OWN_A_BROKER = """
import sys, threading
from pathlib import Path
from fleet_emulation.broker import Broker
broker = Broker(Path(sys.argv[1]), kind=sys.argv[2])
print(broker.program.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_no_broker_stays_behind_when_its_owner_is_killed(tmp_path: Path, kind: str) -> None:
    if kind == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    command = [sys.executable, "-c", OWN_A_BROKER, str(tmp_path / "broker"), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        broker = int(owner.stdout.readline())
        try:
            assert lives(broker)
            owner.kill()
            wait_until(lambda: not lives(broker), "the broker to end", limit_s=120.0)
        finally:
            owner.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(broker, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_dies_at_its_start_gives_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('the disk is on fire')"]
    with Program("the agent", command, log=tmp_path / "log") as program, pytest.raises(EdgeFleetError) as raised:
        program.ready(PortReady)
    assert raised.value.message == "the agent did not start: the disk is on fire"
    assert raised.value.hint == f"see its log: {tmp_path / 'log'}"


def test_a_program_that_says_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with Program("the agent", command, log=tmp_path / "log") as program:
        with pytest.raises(UnreachableError, match=r"^the agent did not get ready in time$"):
            program.ready(PortReady, limit_s=0.2)
        with pytest.raises(UnreachableError, match=r"^the agent does not listen on port \d+$"):
            wait_for_port(free_port(), program, limit_s=0.2)


def test_a_program_that_does_not_end_when_asked_is_ended(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{\"port\": 1}', flush=True)\n"
    command = [sys.executable, "-c", stubborn + "while True: signal.pause()"]
    program = Program("a stubborn one", command, log=tmp_path / "log")
    program.ready(PortReady)
    assert program.stop(limit_s=0.2) == -9
    assert not program.running


def test_a_command_that_fails_is_told_with_its_own_sentence(tmp_path: Path) -> None:
    outcome = edgefleet("verify", tmp_path / "none.bundle", home=tmp_path)
    assert (outcome.status, outcome.error_code) == (2, "file-missing")
    with pytest.raises(EdgeFleetError) as raised:
        require(outcome)
    assert raised.value.message == (
        f"'edgefleet verify {tmp_path}/none.bundle' exited with 2: "
        f"cannot read the bundle '{tmp_path}/none.bundle': No such file or directory"
    )


def test_a_live_stream_depends_on_its_seed_only(digits_example: Path) -> None:
    def told(seed: int) -> list[tuple[bytes, int | None, bool]]:
        stream = LiveStream(digits_example / "digits.npz", seed=seed)
        return [(frame.pixels.tobytes(), frame.label, stream.is_labelled(frame)) for frame in islice(stream, 400)]

    assert told(1) == told(1)
    assert told(1) != told(2)


def test_a_live_stream_shows_blank_frames_and_labels_as_often_as_it_is_told(digits_example: Path) -> None:
    stream = LiveStream(digits_example / "digits.npz", seed=3, blank_share=0.1, label_share=0.25)
    frames = list(islice(stream, 4000))
    blank = [frame for frame in frames if frame.label is None]
    assert 0.07 < len(blank) / len(frames) < 0.13
    assert not any(np.any(frame.pixels) for frame in blank)
    labelled = sum(stream.is_labelled(frame) for frame in frames)
    assert 0.19 < labelled / (len(frames) - len(blank)) < 0.31
    assert not any(stream.is_labelled(frame) for frame in blank)


def test_a_live_stream_is_blank_once_in_so_many_frames_where_that_is_asked_for(digits_example: Path) -> None:
    stream = LiveStream(digits_example / "digits.npz", seed=5, blank_share=0.001, blank_within=80)
    blank = [number for number, frame in enumerate(islice(stream, 4000)) if frame.label is None]
    assert max(later - earlier for earlier, later in pairwise([-1, *blank])) == 80
    assert len(blank) > 4000 / 80 - 1


def test_a_live_stream_shows_every_picture_once_in_each_pass(digits_example: Path) -> None:
    with np.load(digits_example / "digits.npz", allow_pickle=False) as stored:
        pictures = sorted(picture.tobytes() for picture in stored["live_x"])
    stream = iter(LiveStream(digits_example / "digits.npz", seed=4, blank_share=0.0))
    for _ in range(2):
        assert sorted(frame.pixels.tobytes() for frame in islice(stream, len(pictures))) == pictures


def test_waiting_for_what_never_comes_ends_in_one_sentence() -> None:
    started = time.monotonic()
    with pytest.raises(EdgeFleetError, match=re.escape("waited 0 s for rain")):
        wait_until(lambda: None, "rain", limit_s=0.2)
    assert time.monotonic() - started >= 0.2
