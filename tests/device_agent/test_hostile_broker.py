# SPDX-License-Identifier: Apache-2.0
"""A broker that means harm, or has gone mad, costs the device a connection, and neither memory nor a processor."""

import socket
from types import SimpleNamespace

import pytest

from device_agent.adapters.network import mqtt
from device_agent.adapters.network.mqtt import MqttChannel
from device_agent.adapters.network.mqtt_client import PACKET_LIMIT_BYTES
from device_agent.adapters.network.mqtt_pump import MqttPump
from edgefleet.contracts.enrolment import BrokerAddress

LIMIT_S = 60.0
CONNACK = bytes.fromhex("2003000000")
PINGRESP = bytes.fromhex("d000")


def length(size):
    """Encode MQTT's remaining length."""
    encoded = bytearray()
    while True:
        size, digit = divmod(size, 128)
        encoded.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(encoded)


def publish(payload, *, qos):
    body = b"\x00\x04hint" + (b"\x00\x01" if qos else b"") + b"\x00" + payload
    return bytes([0x30 | qos << 1]) + length(len(body)) + body


class Hand:
    """Drives one channel as the pump does, with a clock of its own, against the test as its broker."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(mqtt, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.listener = socket.create_server(("127.0.0.1", 0))
        address = BrokerAddress(host="127.0.0.1", port=self.listener.getsockname()[1], tls=False)
        pump = SimpleNamespace(add=lambda _: None, wake=lambda: None)
        self.channel = MqttChannel(pump, tenant="t", device="d", broker=address, tls=None, random=lambda: 1.0)

    def connect(self):
        self.channel.step(self.now)
        self.broker, _ = self.listener.accept()
        self.broker.settimeout(LIMIT_S)
        self.broker.recv(65536)
        self.broker.sendall(CONNACK)
        while not self.channel.connection:
            self.channel.ready(readable=True, writable=True)
        self.channel.step(self.now)

    def close(self):
        self.listener.close()
        self.broker.close()


@pytest.fixture
def hand(monkeypatch):
    hand = Hand(monkeypatch)
    hand.connect()
    yield hand
    hand.close()


@pytest.mark.parametrize(
    "start",
    [b"\x30" + length(PACKET_LIMIT_BYTES + 1), b"\x30\xff\xff\xff\x7f", publish(b"{}", qos=2), publish(b"{}", qos=3)],
    ids=["large", "largest", "exactly once", "no service"],
)
def test_a_packet_that_nobody_asked_for_ends_the_connection_before_it_is_read(hand, start):
    hand.broker.sendall(start)
    while hand.channel.client_socket is not None:
        hand.channel.ready(readable=True, writable=False)
    assert (hand.channel.connection, hand.channel.incoming()) == (0, [])


def test_a_packet_as_large_as_may_be_is_read(hand):
    payload = bytes(PACKET_LIMIT_BYTES - 9)
    packet = publish(payload, qos=1)
    hand.broker.settimeout(0.0)
    sent = 0
    while sent < len(packet):
        try:
            sent += hand.broker.send(packet[sent:])
        except BlockingIOError:
            hand.channel.ready(readable=True, writable=False)
    hand.broker.settimeout(LIMIT_S)
    hand.broker.sendall(publish(b'{"format_version": 1, "type": "hint"}', qos=1))
    hand.broker.shutdown(socket.SHUT_WR)
    while hand.channel.connection:
        hand.channel.ready(readable=True, writable=True)
    acknowledged = b""
    while piece := hand.broker.recv(65536):
        acknowledged += piece
    assert acknowledged.count(bytes.fromhex("40020001")) == 2  # both were read, and one was no message of ours


def test_a_broker_that_sends_without_end_is_heard_again_after_a_moment(hand):
    hand.broker.sendall(PINGRESP * 5000)
    times = 0
    while hand.channel.wants_to_read:
        hand.channel.ready(readable=True, writable=False)
        times += 1
    assert 1000 <= times <= 3001
    assert hand.now < hand.channel.due_at <= hand.now + 1.0
    hand.channel.step(hand.now)
    assert not hand.channel.wants_to_read
    hand.now = hand.channel.due_at
    hand.channel.step(hand.now)
    assert hand.channel.wants_to_read
    assert hand.channel.due_at > hand.now
    hand.channel.ready(readable=True, writable=False)
    assert hand.channel.connection


def test_a_broker_that_lets_go_of_everybody_is_asked_less_and_less(hand):
    delays = []
    for _ in range(4):
        hand.broker.close()
        while hand.channel.connection:
            hand.channel.ready(readable=True, writable=False)
        delays.append(hand.channel.due_at - hand.now)
        hand.now = hand.channel.due_at
        hand.connect()
    assert delays == sorted(set(delays))
    hand.now += 3600.0
    hand.broker.close()
    while hand.channel.connection:
        hand.channel.ready(readable=True, writable=False)
    assert hand.channel.due_at - hand.now == delays[0]


class Quiet:
    """A channel that hears when it is told to, once."""

    wants_to_read = wants_to_write = False
    due_at = float("inf")

    def __init__(self):
        self.client_socket, self.broker = socket.socketpair()
        self.heard = []

    def ready(self, *, readable, writable):
        self.heard.append((self.client_socket.recv(9), self.wants_to_read))
        self.wants_to_read = False

    def finish(self):
        self.client_socket.close()
        self.broker.close()


def test_a_pump_leaves_a_channel_alone_that_wants_nothing(agent_tools):
    pump, quiet = MqttPump(), Quiet()
    try:
        pump.add(quiet)
        quiet.broker.sendall(b"first")
        pump.wake()
        quiet.wants_to_read = True
        pump.wake()
        agent_tools.wait_until(lambda: quiet.heard, "what was sent")
        assert quiet.heard == [(b"first", True)]
    finally:
        pump.stop()
