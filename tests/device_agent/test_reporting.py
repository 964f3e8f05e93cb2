# SPDX-License-Identifier: Apache-2.0
"""Messages reach a real broker, again and again until the watermark covers them."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from device_agent.adapters.network.mqtt import MqttChannel
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.reporting import IN_FLIGHT, Reporter
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.messages import (
    SCHEMA,
    Capabilities,
    Event,
    Gap,
    Hint,
    Message,
    State,
    Watermark,
    decode_message,
    encode_message,
)

PREFIX = "edgefleet/v1/acme/dev-1"
#: Ends a test that fails.
LIMIT_S = 120.0
STATE = State(v=1, device="dev-1", profile="linux-x86_64", connected=True, status="idle", agent_version="1")


class Broker:
    """A mosquitto on loopback that can be killed and started again on its port."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        config = self.folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self.process = subprocess.Popen(
            [shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin"), "-c", str(config)],
            stderr=subprocess.DEVNULL,
        )
        self.wait_open()

    def wait_open(self):
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
        raise AssertionError("the broker does not listen")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Server:
    """The server's side: takes messages by their key, and answers with watermarks if it is told to."""

    def __init__(self, port):
        self.messages = {}
        self.states = []
        self.copies = 0
        self.acknowledging = True
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("edgefleet/v1/#", 1)
        self.client.on_message = self.take
        self.subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def take(self, client, _data, message):
        if message.topic.endswith("/state"):
            self.states.append(decode_message(message.payload, State))
        elif message.topic.endswith(("/event", "/telemetry")):
            body = decode_message(message.payload, Message)
            self.messages[body.sequence] = body
            self.copies += 1  # last of all: who waits for it looks at the message next
            if self.acknowledging:
                self.watermark(body.epoch)

    def watermark(self, epoch):
        known = set(self.messages)
        for message in self.messages.values():
            if isinstance(message.body, Gap):
                known |= set(range(message.body.first, message.body.last + 1))
        highest = 0
        while highest + 1 in known:
            highest += 1
        mark = Watermark(v=1, epoch=epoch, sequence=highest)
        self.client.publish(f"{PREFIX}/watermark", encode_message(mark), qos=1)

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


class Clock:
    """The machine's clock, which a test can put forward."""

    def __init__(self):
        self.ahead_s = 0.0

    def wall(self):
        return time.time()

    def monotonic(self):
        return time.monotonic() + self.ahead_s


@pytest.fixture
def real_broker(tmp_path):
    if not shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin"):
        pytest.skip("mosquitto is not installed")
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def reporting(real_broker, tmp_path):
    """A reporter with its outbox and channel, and a server on the other side."""
    server = Server(real_broker.port)
    assert server.subscribed.wait(LIMIT_S)
    pump, clock = MqttPump(), Clock()
    address = BrokerAddress(host="127.0.0.1", port=real_broker.port, tls=False)
    channel = MqttChannel(pump, tenant="acme", device="dev-1", broker=address, tls=None, random=lambda: 0.0)
    box = OutboxFile(tmp_path / "outbox.db", "dev-1", limit_bytes=1 << 20)
    yield Reporter(box, channel, clock), box, channel, server, clock
    server.stop()
    pump.stop()
    box.close()


def turn(reporter, channel):
    """What the agent does on each tick with its messages."""
    for message in channel.incoming():
        if isinstance(message, Watermark):
            reporter.stored(message)
    reporter.send()


def events(reporter, count):
    for number in range(count):
        reporter.event(Event(kind="verified", cause="downloaded", detail=str(number)))


def test_every_message_arrives_and_leaves_the_outbox_only_when_it_is_stored(reporting, agent_tools):
    reporter, box, channel, server, _ = reporting
    server.acknowledging = False
    events(reporter, 3 * IN_FLIGHT)
    agent_tools.wait_until(lambda: turn(reporter, channel) or len(server.messages) == IN_FLIGHT, "the first messages")
    assert box.depth() == 3 * IN_FLIGHT
    server.acknowledging = True
    server.watermark(box.epoch)
    agent_tools.wait_until(lambda: turn(reporter, channel) or box.depth() == 0, "the outbox is empty")
    assert sorted(server.messages) == list(range(1, 3 * IN_FLIGHT + 1))


def test_messages_are_sent_again_while_no_watermark_covers_them(reporting, agent_tools):
    reporter, box, channel, server, clock = reporting
    server.acknowledging = False
    events(reporter, 3)
    agent_tools.wait_until(lambda: turn(reporter, channel) or server.copies == 3, "the first copies")
    clock.ahead_s = 31.0
    agent_tools.wait_until(lambda: turn(reporter, channel) or server.copies == 6, "the second copies")
    assert box.depth() == 3


def test_nothing_is_lost_when_the_broker_is_killed(reporting, real_broker, agent_tools):
    reporter, box, channel, server, clock = reporting
    for _ in range(3):
        events(reporter, 50)
        agent_tools.wait_until(lambda: turn(reporter, channel) or len(server.messages) > 0, "some messages")
        real_broker.kill()
        events(reporter, 50)
        real_broker.start()

    def later():
        clock.ahead_s += 0.5  # what was sent before the server was back is sent again after a while
        turn(reporter, channel)
        return box.depth() == 0

    agent_tools.wait_until(later, "the outbox is empty")
    assert sorted(server.messages) == list(range(1, 301))


def test_a_gap_lets_the_watermark_pass_what_was_evicted(reporting, agent_tools, tmp_path):
    _, _, channel, server, clock = reporting
    small = OutboxFile(tmp_path / "small.db", "dev-1", limit_bytes=20_000)
    reporter = Reporter(small, channel, clock)
    events(reporter, 500)
    agent_tools.wait_until(lambda: turn(reporter, channel) or small.depth() == 0, "the outbox is empty")
    assert 500 - len([m for m in server.messages.values() if isinstance(m.body, Event)]) > IN_FLIGHT
    small.close()


def test_a_server_that_was_restored_from_a_backup_gets_what_it_lost_again(reporting, agent_tools):
    reporter, box, channel, server, clock = reporting
    events(reporter, 150)
    agent_tools.wait_until(lambda: turn(reporter, channel) or box.depth() == 0, "the outbox is empty")
    server.messages = {number: message for number, message in server.messages.items() if number <= 40}
    events(reporter, 1)

    def later():
        clock.ahead_s += 2.0
        turn(reporter, channel)
        return len(server.messages) == 151 and box.depth() == 0

    agent_tools.wait_until(later, "the server has all messages again")
    assert sorted(server.messages) == list(range(1, 152))


def test_a_server_gets_messages_in_the_schema_that_it_says_and_in_the_first_if_it_says_none(reporting, agent_tools):
    reporter, box, channel, server, clock = reporting
    renewed = Event(kind="certificate-renewed", cause="due")
    reporter.announce(STATE)
    reporter.event(renewed)
    agent_tools.wait_until(lambda: turn(reporter, channel) or channel.connection, "a connection")
    assert server.copies == 0  # the server might still say that it understands more
    clock.ahead_s += 5.0
    agent_tools.wait_until(lambda: turn(reporter, channel) or box.depth() == 0, "the message arrives")
    assert (server.messages[1].v, server.messages[1].body.kind) == (1, "state-repaired")
    server.client.publish(f"{PREFIX}/hint", encode_message(Capabilities(v=1, schema=9)), qos=1)
    [said] = agent_tools.wait_until(lambda: [m for m in channel.incoming() if isinstance(m, Capabilities)], "the word")
    reporter.understood(said)
    reporter.event(renewed)
    agent_tools.wait_until(lambda: turn(reporter, channel) or box.depth() == 0, "the message arrives")
    assert (server.messages[2].v, server.messages[2].body) == (SCHEMA, renewed)
    reporter.announce(STATE)
    agent_tools.wait_until(lambda: server.states and server.states[-1].v == SCHEMA, "the state in the same schema")


def test_messages_go_in_the_first_schema_again_where_the_server_stores_none(reporting, agent_tools):
    """An older server has taken the place of a newer one: it refuses what it does not know."""
    reporter, _, channel, server, clock = reporting
    server.acknowledging = False
    reporter.understood(Capabilities(v=1, schema=2))
    reporter.event(Event(kind="certificate-renewed", cause="due"))
    agent_tools.wait_until(lambda: turn(reporter, channel) or server.copies == 1, "the message")
    assert server.messages[1].v == 2
    clock.ahead_s += 40.0
    agent_tools.wait_until(lambda: turn(reporter, channel) or server.copies == 2, "the message again")
    assert server.messages[1].v == 1


def test_a_late_watermark_of_before_lets_nothing_be_sent_again(reporting, agent_tools):
    reporter, box, channel, server, clock = reporting
    events(reporter, 20)
    agent_tools.wait_until(lambda: turn(reporter, channel) or box.depth() == 0, "the outbox is empty")
    reporter.stored(Watermark(v=1, epoch=box.epoch, sequence=3))
    events(reporter, 1)
    agent_tools.wait_until(lambda: turn(reporter, channel) or box.depth() == 0, "the outbox is empty")
    clock.ahead_s += 1000.0
    turn(reporter, channel)
    assert (box.depth(), server.copies) == (0, 21)


def test_the_state_is_retained_and_the_last_will_says_that_the_device_is_gone(reporting, real_broker, agent_tools):
    _, _, channel, server, _ = reporting
    channel.announce(STATE)
    agent_tools.wait_until(lambda: server.states and server.states[-1].connected, "the state")
    script = (
        "import sys, threading\n"
        "from device_agent.adapters.network.mqtt import MqttChannel\n"
        "from device_agent.adapters.network.mqtt_pump import MqttPump\n"
        "from edgefleet.contracts.enrolment import BrokerAddress\n"
        "from edgefleet.contracts.messages import State\n"
        f"names = dict(tenant='acme', device='dev-2', tls=None, random=lambda: 0.0)\n"
        f"address = BrokerAddress(host='127.0.0.1', port={real_broker.port}, tls=False)\n"
        "channel = MqttChannel(MqttPump(), broker=address, **names)\n"
        "channel.announce(State(v=1, device='dev-2', profile='p', connected=True, status='trial', agent_version='1'))\n"
        "threading.Event().wait()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script])
    of_other = lambda: [state for state in server.states if state.device == "dev-2"]  # noqa: E731
    agent_tools.wait_until(of_other, "the other device's state")
    other.kill()
    other.wait()
    agent_tools.wait_until(lambda: not of_other()[-1].connected, "the last will")
    assert of_other()[-1].status == "trial"


def test_hints_arrive_and_malformed_messages_are_ignored(reporting, agent_tools):
    _, _, channel, server, _ = reporting
    channel.announce(STATE)
    agent_tools.wait_until(lambda: server.states, "the state, which is sent behind the subscription")
    server.client.publish(f"{PREFIX}/hint", b"not json", qos=1)
    server.client.publish(f"{PREFIX}/watermark", b"{}", qos=1)
    server.client.publish(f"{PREFIX}/hint", encode_message(Hint(v=1, counter=7)), qos=1)
    assert agent_tools.wait_until(channel.incoming, "the hint") == [Hint(v=1, counter=7)]


def test_the_farewell_is_published_before_the_connection_ends(reporting, agent_tools):
    _, _, channel, server, _ = reporting
    channel.announce(STATE)
    agent_tools.wait_until(lambda: server.states, "the state")
    farewell = State(v=1, device="dev-1", profile="linux-x86_64", connected=False, status="idle", agent_version="1")
    channel.close(farewell)
    agent_tools.wait_until(lambda: server.states[-1] == farewell, "the farewell")


def test_one_pump_brings_all_its_devices_back_when_the_broker_was_away(real_broker, agent_tools):
    """New sockets get the numbers of those that were closed; each channel must still hear what is its own."""
    names = [f"dev-{number}" for number in range(1, 13)]
    pump, address = MqttPump(), BrokerAddress(host="127.0.0.1", port=real_broker.port, tls=False)
    channels = {
        name: MqttChannel(pump, tenant="acme", device=name, broker=address, tls=None, random=lambda: 0.0)
        for name in names
    }
    agent_tools.wait_until(lambda: all(c.connection == 1 for c in channels.values()), "the first connections")
    for round_number in (2, 3):
        real_broker.kill()
        agent_tools.wait_until(lambda: not any(c.connection for c in channels.values()), "the broker is missed")
        channels.pop(names.pop()).close(None)
        real_broker.start()
        connected = lambda: all(c.connection == round_number for c in channels.values())  # noqa: B023, E731
        agent_tools.wait_until(connected, "new connections")
        server = Server(real_broker.port)
        assert server.subscribed.wait(LIMIT_S)
        for name, channel in channels.items():
            channel.announce(msgspec.structs.replace(STATE, device=name))
        # A state is sent behind its device's subscription: from then on hints arrive.
        agent_tools.wait_until(lambda: {s.device for s in server.states} == set(names), "all states")  # noqa: B023
        for number, name in enumerate(channels):
            hint = encode_message(Hint(v=1, counter=number))
            server.client.publish(f"edgefleet/v1/acme/{name}/hint", hint, qos=1)
        for number, channel in enumerate(channels.values()):
            assert agent_tools.wait_until(channel.incoming, "the hint") == [Hint(v=1, counter=number)]
        server.stop()
    pump.stop()


def test_a_broker_that_speaks_only_the_older_protocol_is_spoken_to(reporting, agent_tools):
    """A listener that answers MQTT 5 with the old protocol's refusal and takes 3.1.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(LIMIT_S)
        pump = MqttPump()
        address = BrokerAddress(host="127.0.0.1", port=listener.getsockname()[1], tls=False)
        channel = MqttChannel(pump, tenant="acme", device="dev-3", broker=address, tls=None, random=lambda: 0.0)
        levels = []
        connections = []
        while 4 not in levels:
            connection, _ = listener.accept()
            connections.append(connection)
            connection.settimeout(LIMIT_S)
            levels.append(connection.recv(4096)[8])
            connection.sendall(b"\x20\x02\x00\x00" if levels[-1] == 4 else b"\x20\x02\x00\x01")
        agent_tools.wait_until(lambda: channel.connection == 1, "a connection over MQTT 3.1.1")
        pump.stop()
        for connection in connections:
            connection.close()
    assert levels == [5, 4]
