# SPDX-License-Identifier: Apache-2.0
"""MQTT: one pump thread drives the connections of any number of devices (one in the field, many in a simulation).

All of paho's calls happen in the pump's thread. Agents hand over messages and take what came through queues, so
nothing here blocks them. A connection speaks MQTT 5 if the broker takes it, else 3.1.1.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from device_agent.core.schedule import Backoff
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import MessageError
from edgefleet.contracts.messages import Hint, Message, State, Telemetry, Watermark, decode_message, encode_message
from edgefleet.contracts.topics import Channel, topic

_LOG = logging.getLogger("edgefleet.agent")
_KEEPALIVE_S = 30
_CONNECT_S = 10.0
_TICK_S = 0.5
_QUEUE_LIMIT = 1000
_RECONNECT = Backoff(first_s=0.5, cap_s=60.0)
_PROTOCOLS = (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311)


@dataclass(frozen=True)
class TlsFiles:
    """The device's certificate and the authority of the broker's."""

    ca: Path
    certificate: Path
    key: Path


class MqttChannel:
    """One device's connection, as the agent sees it (:class:`device_agent.ports.Messenger`)."""

    def __init__(
        self,
        pump: "MqttPump",
        *,
        tenant: str,
        device: str,
        broker: BrokerAddress,
        tls: TlsFiles | None,
        random: Callable[[], float],
    ) -> None:
        self._pump = pump
        self._tenant = tenant
        self._device = device
        self._broker = broker
        self._tls = tls
        self._random = random
        self._outgoing: deque[tuple[str, bytes, bool]] = deque(maxlen=_QUEUE_LIMIT)
        self._incoming: deque[Watermark | Hint] = deque(maxlen=_QUEUE_LIMIT)
        self._state: State | None = None
        self._connections = 0
        self._connected = False
        self._protocol = 0
        self._answer_by = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._client: paho.Client | None = None
        self.on_news: Callable[[], None] = lambda: None
        pump.add(self)

    # What the agent calls, from its own thread.

    def incoming(self) -> list[Watermark | Hint]:
        """Return what came since the last call."""
        taken: list[Watermark | Hint] = []
        while self._incoming:
            taken.append(self._incoming.popleft())
        return taken

    @property
    def connection(self) -> int:
        """Number of the present connection, counted from 1; 0 while there is none."""
        return self._connections if self._connected else 0

    def send(self, message: Message) -> None:
        """Hand a message over for sending with QoS 1; it may be lost."""
        channel: Channel = "telemetry" if isinstance(message.body, Telemetry) else "event"
        self._queue(topic(self._tenant, self._device, channel), encode_message(message), retain=False)

    def announce(self, state: State) -> None:
        """Set the retained state; it is published now and at each connect, with ``connected`` false as last will."""
        self._state = state
        self._queue(topic(self._tenant, self._device, "state"), encode_message(state), retain=True)

    def close(self, farewell: State | None) -> None:
        """Publish the farewell state if there is a connection, and end it."""
        if farewell is not None:
            self.announce(farewell)
        self._pump.remove(self)

    def _queue(self, name: str, payload: bytes, *, retain: bool) -> None:
        if self._connected:
            self._outgoing.append((name, payload, retain))
            self._pump.wake()

    # What the pump calls, from its thread.

    def step(self, now: float) -> None:
        """Connect if it is time, send what waits, keep the connection alive."""
        if self._client is None:
            if now >= self._retry_at:
                self._connect()
            return
        self._send_waiting()
        if not self._connected and now >= self._answer_by:
            self._not_spoken()
        elif self._client.loop_misc() != paho.MQTT_ERR_SUCCESS:
            self.lost()

    @property
    def has_work(self) -> bool:
        """Tell whether messages wait to be sent."""
        return self._client is not None and self._connected and bool(self._outgoing)

    @property
    def client_socket(self) -> socket.socket | None:
        """The socket to select on."""
        return self._client.socket() if self._client is not None else None  # type: ignore[return-value]

    @property
    def wants_to_write(self) -> bool:
        """Tell whether paho has bytes to write."""
        return self._client is not None and self._client.want_write()

    def ready(self, *, readable: bool, writable: bool) -> None:
        """Let paho read and write."""
        try:
            alive = self._read_and_write(readable=readable, writable=writable)
        except Exception:  # noqa: BLE001  paho raises various errors on a broker's malformed or older answer
            alive = False
        if not alive and self._connected:
            self.lost()
        elif not alive and self._client is not None:
            self._not_spoken()

    def _read_and_write(self, *, readable: bool, writable: bool) -> bool:
        client = self._client
        if client is not None and readable:
            if client.loop_read() != paho.MQTT_ERR_SUCCESS:
                return False
            while (end := client.socket()) is not None and getattr(end, "pending", int)():
                if client.loop_read() != paho.MQTT_ERR_SUCCESS:  # what TLS has decrypted does not wake a selector
                    return False
        return client is None or not writable or client.loop_write() == paho.MQTT_ERR_SUCCESS

    def _not_spoken(self) -> None:
        """Forget a connection that never came to a good answer, and try the other protocol next."""
        self._protocol = (self._protocol + 1) % len(_PROTOCOLS)
        self.lost()

    def finish(self) -> None:
        """Send what waits, say goodbye to the broker (so that it drops the last will), and end."""
        client = self._client
        if client is not None and self._connected:
            self._send_waiting()
            deadline = time.monotonic() + 1.0
            while client.want_write() and time.monotonic() < deadline:
                client.loop_write()
            client.disconnect()
            client.loop_write()
        self._client, self._connected = None, False

    def lost(self) -> None:
        """Forget a broken connection and plan the next one."""
        was_connected, self._connected = self._connected, False
        if self._client is not None and (end := self._client.socket()) is not None:
            end.close()
        self._client = None
        self._failures = 1 if was_connected else self._failures + 1
        self._retry_at = time.monotonic() + _RECONNECT.delay_s(self._failures, self._random())
        if was_connected:
            self.on_news()

    def _connect(self) -> None:
        self._outgoing.clear()
        self._answer_by = time.monotonic() + _CONNECT_S
        try:
            client = self._client = self._new_client()
            client.connect(self._broker.host, self._broker.port, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError) as error:  # unreadable certificates, too; ValueError: paho's word for a host
            if self._failures == 0:  # the next attempts fail alike
                where = f"{self._broker.host}:{self._broker.port}"
                _LOG.warning("the broker at %s does not answer: %s; it is tried again", where, error)
            self.lost()

    def _new_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"{self._tenant}.{self._device}", protocol=_PROTOCOLS[self._protocol]
        )
        if self._tls is not None:
            client.tls_set(str(self._tls.ca), str(self._tls.certificate), str(self._tls.key))
        client.connect_timeout = _CONNECT_S
        client.max_inflight_messages_set(_QUEUE_LIMIT)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        if self._state is not None:
            will = encode_message(msgspec.structs.replace(self._state, connected=False))
            client.will_set(topic(self._tenant, self._device, "state"), will, qos=1, retain=True)
        return client

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._not_spoken()
            return
        client.subscribe(
            [(topic(self._tenant, self._device, "hint"), 1), (topic(self._tenant, self._device, "watermark"), 1)]
        )
        self._connections += 1
        self._connected = True
        self._failures = 0
        if self._state is not None:
            self.announce(self._state)
        self.on_news()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        try:
            if message.topic.endswith("/watermark"):
                self._incoming.append(decode_message(payload, Watermark))
            else:
                self._incoming.append(decode_message(payload, Hint))
        except MessageError:
            return  # a malformed message from the broker's side must not stop the device
        self.on_news()

    def _send_waiting(self) -> None:
        while self._connected and self._client is not None and self._outgoing:
            name, payload, retain = self._outgoing.popleft()
            self._client.publish(name, payload, qos=1, retain=retain)


class MqttPump:
    """The thread that drives all channels."""

    def __init__(self) -> None:
        self._channels: list[MqttChannel] = []
        self._leaving: list[MqttChannel] = []
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._watched = _Watched(self._wake_in)
        self._round_at = 0.0
        self._running = True
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def add(self, channel: MqttChannel) -> None:
        """Start driving a channel."""
        with self._lock:
            self._channels.append(channel)
            self._round_at = 0.0
        self.wake()

    def remove(self, channel: MqttChannel) -> None:
        """Let a channel send what waits, and stop driving it."""
        with self._lock:
            if channel in self._channels:
                self._channels.remove(channel)
                self._leaving.append(channel)
        self.wake()

    def wake(self) -> None:
        """Let the thread look at its channels now."""
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_out, b"\0")

    def stop(self) -> None:
        """Finish all channels and end the thread."""
        with self._lock:
            self._leaving += self._channels
            self._channels = []
        self._running = False
        self.wake()
        self._thread.join(5.0)
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _run(self) -> None:
        while True:
            with self._lock:
                channels, leaving = list(self._channels), list(self._leaving)
                self._leaving.clear()
                due = self._due(channels, time.monotonic())
            for channel in leaving:
                channel.finish()
            if not self._running:
                self._watched.close()
                return
            now = time.monotonic()
            for channel in due:
                channel.step(now)
            self._watched.follow(channels)
            for channel, readable, writable in self._watched.wait(_TICK_S):
                channel.ready(readable=readable, writable=writable)

    def _due(self, channels: list[MqttChannel], now: float) -> list[MqttChannel]:
        """Return every channel once a tick, and in between those that have something to send."""
        if now < self._round_at:
            return [channel for channel in channels if channel.has_work]
        self._round_at = now + _TICK_S
        return channels


class _Watched:
    """The sockets of the channels in one selector, which is told only of what changed since the last look."""

    def __init__(self, wake_in: int) -> None:
        self._wake_in = wake_in
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake_in, selectors.EVENT_READ)
        self._known: dict[MqttChannel, tuple[socket.socket, int]] = {}

    def follow(self, channels: list[MqttChannel]) -> None:
        """Watch the sockets that the channels have now, for what they have to do."""
        wanted = {channel: (end, _events(channel)) for channel in channels if (end := channel.client_socket)}
        # First of all what is gone: a new socket may have the number of one that was closed.
        for channel, (end, _) in list(self._known.items()):
            if channel not in wanted or wanted[channel][0] is not end:
                self._selector.unregister(end)
                del self._known[channel]
        for channel, (end, events) in wanted.items():
            if channel not in self._known:
                self._selector.register(end, events, channel)
            elif self._known[channel][1] != events:
                self._selector.modify(end, events, channel)
            self._known[channel] = (end, events)

    def wait(self, limit_s: float) -> list[tuple[MqttChannel, bool, bool]]:
        """Return the channels that can read or write; none if there was a wake-up, or nothing in time."""
        ready = []
        for key, events in self._selector.select(limit_s):
            if key.data is None:
                os.read(self._wake_in, 4096)
            else:
                ready.append((key.data, bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE)))
        return ready

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()


def _events(channel: MqttChannel) -> int:
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.wants_to_write else 0)


class NoBroker:
    """The messenger of a device without a broker: it polls, and its outbox fills."""

    connection = 0

    def __init__(self) -> None:
        self.on_news: Callable[[], None] = lambda: None

    def incoming(self) -> list[Watermark | Hint]:
        """Nothing ever comes."""
        return []

    def send(self, message: Message) -> None:
        """There is nobody to send to."""

    def announce(self, state: State) -> None:
        """There is nobody to tell."""

    def close(self, farewell: State | None) -> None:
        """There is nothing to end."""
