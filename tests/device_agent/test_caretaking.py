# SPDX-License-Identifier: Apache-2.0
"""When upkeep goes round, what becomes of its notes, and how a rival at the broker is noticed."""

import os
import socket
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.children.upkeep_process import UpkeepProcess
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.sealed_copy import copy_of, mend, write_twice
from device_agent.adapters.network.mqtt import MqttChannel
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.caretaking import FIRST_S, PERIOD_S, TAKEOVER_LIMIT, Caretaking
from device_agent.cli import main
from device_agent.core.orders.renewal import CertificateLife
from device_agent.core.timers import Timers
from device_agent.core.upkeep import Note, UpkeepResult
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError


class Rounds:
    """An upkeep whose rounds end as they are told to, and an executor that does each at once."""

    def __init__(self):
        self.results = []
        self.done = 0

    def round(self):
        self.done += 1
        result = self.results.pop(0) if self.results else UpkeepResult()
        if isinstance(result, Exception):
            raise result
        return result

    def submit(self, work):
        future = Future()
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  as an executor does
            future.set_exception(error)
        return future


@pytest.fixture(name="care")
def _care():
    rounds, clock = Rounds(), SimpleNamespace(now=1000.0)
    ports = SimpleNamespace(
        upkeep=rounds,
        executor=rounds,
        random=lambda: 0.5,
        clock=SimpleNamespace(monotonic=lambda: clock.now),
        messenger=SimpleNamespace(takeovers=0),
    )
    timers = Timers()
    caretaking = Caretaking(ports, timers, time_scale=1.0, wake=lambda: None)
    caretaking.plan_first()

    def pass_s(seconds):
        clock.now += seconds
        return (*caretaking.step(), *caretaking.step())

    return SimpleNamespace(rounds=rounds, ports=ports, pass_s=pass_s)


def test_the_first_round_waits_and_the_next_ones_come_hourly(care):
    care.pass_s(FIRST_S - 1)
    assert care.rounds.done == 0
    care.pass_s(1)
    assert care.rounds.done == 1
    care.pass_s(PERIOD_S - 1)
    assert care.rounds.done == 1
    care.pass_s(1)
    assert care.rounds.done == 2


def test_a_round_that_failed_comes_again_sooner_and_ever_more_seldom(care, caplog):
    care.rounds.results = [UpkeepResult(soon=True), EdgeFleetError("no such key", hint=""), RuntimeError("a defect")]
    care.pass_s(FIRST_S)
    for wait_s in (225, 450, 900):  # three quarters of 300, 600, 1200
        before = care.rounds.done
        care.pass_s(wait_s - 1)
        assert care.rounds.done == before
        care.pass_s(1)
        assert care.rounds.done == before + 1
    assert "no such key" in caplog.text
    assert "a defect" in caplog.text


def test_a_warning_is_given_once_until_there_is_good_news(care):
    warning = Note(kind="certificate-lapsing", cause="unreachable", detail="it holds until tomorrow")
    other = Note(kind="certificate-lapsing", cause="certificate-lapsed")
    good = Note(kind="certificate-renewed", cause="due")
    care.rounds.results = [UpkeepResult(notes=notes) for notes in ((warning,), (warning, other), (good,), (warning,))]
    assert care.pass_s(FIRST_S) == (warning,)
    assert care.pass_s(PERIOD_S) == (other,)
    assert care.pass_s(PERIOD_S) == (good,)
    assert care.pass_s(PERIOD_S) == (warning,)


def test_a_session_that_is_taken_over_again_and_again_is_reported_once(care):
    care.ports.messenger.takeovers = TAKEOVER_LIMIT - 1
    assert care.pass_s(0) == ()
    care.ports.messenger.takeovers = TAKEOVER_LIMIT
    (note,) = care.pass_s(0)
    assert (note.kind, note.cause) == ("identity-cloned", "session-taken-over")
    assert note.detail == "the broker gave this device's session to another one 3 times: a copy of its memory card runs"
    care.ports.messenger.takeovers += 10
    assert care.pass_s(0) == ()


@given(begins=st.floats(0, 2e9), life=st.floats(1, 1e9), serial=st.integers(0, 1 << 159))
def test_a_certificate_is_renewed_about_two_thirds_through_and_reported_late_afterwards(begins, life, serial):
    certificate = CertificateLife(begins, begins + life, serial)
    assert begins + 0.6 * life < certificate.renewal_at < begins + 0.73 * life
    stages = [certificate.stage(begins + share * life) for share in (-0.5, 0.0, 0.6, 0.75, 0.9, 1.001)]
    assert stages == ["clock-behind", "fresh", "fresh", "due", "late", "lapsed"]


def test_upkeep_in_a_process_of_its_own_does_a_round(device_side, enrolled):
    assert UpkeepProcess(enrolled).round() == UpkeepResult(soon=True)  # this server knows no check-in
    enrolled.certificate.write_bytes(b"zeros")
    with pytest.raises(EdgeFleetError, match=r"^upkeep failed: the device's certificate is damaged: "):
        UpkeepProcess(enrolled).round()


NAMES = ["device.json", "certificate.pem", "ca.pem", "image.root.json", "director.root.json"]


def put(path, data, *, later_s=0.0):
    """Write other bytes in place: as a failing disk does, which leaves the file's time, or as somebody does later."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns + round(later_s * 1e9)
    path.write_bytes(data)
    os.utime(path, ns=times)


@pytest.mark.parametrize("damage", ["zeros", "one bit", "deleted", "a pipe", "/dev/zero", "nowhere"])
@pytest.mark.parametrize("what", ["file", "copy"])
@pytest.mark.parametrize("name", NAMES)
def test_what_came_once_survives_damage_to_it_or_to_its_copy(device_side, enrolled, name, what, damage):
    assert [path.name for path in enrolled.single] == NAMES
    before = {path: path.read_bytes() for path in enrolled.single}
    path = next(path for path in enrolled.single if path.name == name)
    victim = path if what == "file" else copy_of(path)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    if damage in ("deleted", "a pipe", "/dev/zero", "nowhere"):
        victim.unlink()
    if damage == "a pipe":
        os.mkfifo(victim)
    elif damage in ("/dev/zero", "nowhere"):
        victim.symlink_to(damage)
    elif damage != "deleted":
        put(victim, data if damage == "one bit" else bytes(len(data)))
    assert enrolled.mend() == ([path] if what == "file" else [])
    assert {path: path.read_bytes() for path in enrolled.single} == before
    assert enrolled.mend() == []
    put(path, b"damaged again")
    assert enrolled.mend() == [path]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_what_the_file_is_for_is_damage_whenever_it_was_written(device_side, enrolled, name):
    path = next(path for path in enrolled.single if path.name == name)
    before = path.read_bytes()
    for damaged in (bytes(len(before)), before[: len(before) // 2], b"", b"another text"):
        put(path, damaged, later_s=60)
        assert enrolled.mend() == [path]
        assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["state.db", "outbox.db", "labels.json", "identity/key.pem", "slots/x.bundle"])
def test_a_pipe_in_the_place_of_a_file_is_named_by_the_doctor_waited_for_by_nobody_and_put_aside(
    enrolled, name, tmp_path, capsys
):
    path = enrolled.root / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert enrolled.strange() == [path]
    for words in (["status"], ["diagnose", "--output", str(tmp_path / "all.tar.gz")]):
        main([*words, "--data", str(enrolled.root)])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(["doctor", "--data", str(enrolled.root)])
    said = f"fail  data folder     '{path.name}' is a device or a pipe, expected a file  → restart the agent"
    assert said in capsys.readouterr().out
    enrolled.mend()
    assert enrolled.strange() == []
    assert not path.exists()
    assert path.with_name(f"{path.name}.no-file").is_fifo()


def test_another_identity_that_somebody_wrote_stays_and_so_does_the_next_one_right_after(device_side, enrolled):
    first = enrolled.identity.read_bytes()
    for address in (b"https://elsewhere:1", b"https://elsewhere:2"):
        edited = first.replace(enrolled.read_identity().server_url.encode(), address)
        put(enrolled.identity, edited, later_s=1e-6)
        assert enrolled.mend() == []
        assert enrolled.identity.read_bytes() == edited
        enrolled.identity.unlink()
        assert enrolled.mend() == [enrolled.identity]
        assert enrolled.identity.read_bytes() == edited
        first = edited


@pytest.mark.parametrize(("later_s", "usable", "stays"), [(1e-6, True, True), (60, False, False), (0, True, False)])
def test_a_file_that_somebody_wrote_stays_if_it_is_later_than_its_copy_and_usable(tmp_path, later_s, usable, stays):
    path = tmp_path / "ca.pem"
    write_twice(path, b"the first text")
    put(path, b"another text", later_s=later_s)
    assert mend(path, lambda _: usable) == (not stays)
    assert path.read_bytes() == (b"another text" if stays else b"the first text")


def test_a_device_without_copies_gets_them_and_one_that_is_not_enrolled_gets_nothing(enrolled, tmp_path):
    for path in enrolled.single:
        copy_of(path).unlink()
    assert enrolled.mend() == []
    assert all(copy_of(path).exists() for path in enrolled.single)
    nobody = DataFolder(tmp_path / "nobody")
    assert nobody.mend() == []
    assert not nobody.root.exists()
    with pytest.raises(FileMissingError):
        nobody.read_identity()


def test_a_copy_with_a_private_key_is_the_owners_alone(tmp_path):
    write_twice(tmp_path / "certificate.pem", b"-----BEGIN PRIVATE KEY-----")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"certificate.pem": 0o600, "certificate.pem.copy": 0o600}


CONNACK = bytes.fromhex("2003000000")
SESSION_TAKEN_OVER = bytes.fromhex("e0028e00")
NOT_AUTHORIZED = bytes.fromhex("e0028700")


class EndingBroker:
    """A broker that takes each connection, and ends the n-th one with the n-th farewell."""

    def __init__(self, *farewells):
        self.served = 0
        self._farewells = farewells
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        for farewell in self._farewells:
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(CONNACK)
                connection.recv(4096)  # its subscriptions
                connection.sendall(farewell)
            self.served += 1
        self._listener.close()

    def join(self):
        self._thread.join(120)


def test_only_what_the_broker_says_of_a_rival_is_counted(agent_tools):
    # mosquitto 2.0.11 ends such a session without a word; the server's chain of check-ins sees a rival all the same.
    broker = EndingBroker(SESSION_TAKEN_OVER, b"", NOT_AUTHORIZED, SESSION_TAKEN_OVER, SESSION_TAKEN_OVER)
    address = BrokerAddress(host="127.0.0.1", port=broker.port, tls=False)
    pump = MqttPump()
    channel = MqttChannel(pump, tenant="acme", device="dev-1", broker=address, tls=None, random=lambda: 0.0)
    agent_tools.wait_until(lambda: broker.served == 5, "five connections")
    broker.join()
    agent_tools.wait_until(lambda: not channel.connection, "the end of the broker")
    assert channel.takeovers == 3
    pump.stop()
