# SPDX-License-Identifier: Apache-2.0
"""A device's connection to its broker by MQTT; :class:`device_agent.adapters.network.mqtt_pump.MqttPump` drives it.

All of paho's calls happen in the pump's thread. Agents hand over messages and take what came through queues, so
nothing here blocks them. A connection speaks MQTT 5 if the broker takes it, else 3.1.1.
"""

import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from device_agent.adapters.identity.data_folder import key_of
from device_agent.adapters.network.mqtt_client import CONNECT_S, BoundedClient
from device_agent.adapters.network.mqtt_pump import LOOK_S, MqttPump
from device_agent.adapters.network.tls_time import judge_by_known_time
from device_agent.core.schedule import Backoff
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import EdgeFleetError, MessageError
from edgefleet.contracts.messages import (
    Capabilities,
    Hint,
    Message,
    State,
    Telemetry,
    Watermark,
    decode_message,
    encode_message,
)
from edgefleet.contracts.topics import Channel, topic

_LOG = logging.getLogger("edgefleet.agent")
_KEEPALIVE_S = 30
_QUEUE_LIMIT = 1000
_SESSION_TAKEN_OVER = 0x8E
_RECONNECT = Backoff(first_s=0.5, cap_s=60.0)
#: A connection that ends sooner counts as one that failed: a broker that lets go of everybody is asked less and less.
_STEADY_S = 2.0
#: A broker that sends without end is heard so often a second, about a thousand packets, and no more.
_READS_PER_S = 3000
#: The protocols that are spoken, the preferred one first.
PROTOCOLS = (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311)


@dataclass(frozen=True)
class TlsFiles:
    """The device's certificate and the broker's authority; ``bound`` gives a time that has passed for certain."""

    ca: Path
    certificate: Path
    key: Path
    bound: Callable[[], float] = lambda: 0.0

    @property
    def own_key(self) -> Path:
        """Where the key of the present certificate is."""
        return key_of(self.certificate, self.key) or self.key

    def context(self) -> ssl.SSLContext:
        """Return how to speak TLS with the broker now.

        Raises:
            OSError: a file cannot be read, or holds no certificate or key.
        """
        context = ssl.create_default_context(cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.own_key)
        judge_by_known_time(context, self.bound())
        return context


class MqttChannel:
    """One device's connection, as the agent sees it (:class:`device_agent.ports.Messenger`)."""

    def __init__(
        self,
        pump: MqttPump,
        *,
        tenant: str,
        device: str,
        broker: BrokerAddress,
        tls: TlsFiles | None,
        random: Callable[[], float],
        protocols: Sequence[MQTTProtocolVersion] = PROTOCOLS,
    ) -> None:
        self._pump = pump
        self._tenant = tenant
        self._device = device
        self._broker = broker
        self._tls = tls
        self._random = random
        self._outgoing: deque[tuple[str, bytes, bool]] = deque(maxlen=_QUEUE_LIMIT)
        self._incoming: deque[Watermark | Hint | Capabilities] = deque(maxlen=_QUEUE_LIMIT)
        self._state: State | None = None
        self._connections = 0
        self.takeovers = 0
        self._connected = False
        self._protocols = protocols
        self._protocol = 0
        self._answer_by = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._look_at = 0.0
        self._client: BoundedClient | None = None
        self._connected_at = 0.0
        self._second_began = self._deaf_until = 0.0
        self.on_news: Callable[[], None] = lambda: None
        pump.add(self)

    # What the agent calls, from its own thread.

    def incoming(self) -> list[Watermark | Hint | Capabilities]:
        """Return what came since the last call."""
        taken: list[Watermark | Hint | Capabilities] = []
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
        if now >= self._deaf_until:
            self._deaf_until = 0.0
        if self._client is None:
            if now >= self._retry_at:
                self._connect()
            return
        self._look_at = now + LOOK_S
        self._send_waiting()
        if not self._connected and now >= self._answer_by:
            self._not_spoken()
        elif self._client.loop_misc() != paho.MQTT_ERR_SUCCESS:
            self.lost()

    @property
    def due_at(self) -> float:
        """When :meth:`step` has something to do: at once where messages wait to be sent."""
        if self._client is None:
            return self._retry_at
        due_at = self._answer_by if not self._connected else 0.0 if self._outgoing else self._look_at
        return min(due_at, self._deaf_until) if self._deaf_until else due_at

    @property
    def client_socket(self) -> socket.socket | None:
        """The socket to select on."""
        return self._client.socket() if self._client is not None else None  # type: ignore[return-value]

    @property
    def wants_to_read(self) -> bool:
        """Tell whether the broker may be heard: not for a moment, where it sends without end."""
        return not self._deaf_until

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
            self._count_reads(client)
            if client.loop_read() != paho.MQTT_ERR_SUCCESS:
                return False
            while (end := client.socket()) is not None and getattr(end, "pending", int)():
                if client.loop_read() != paho.MQTT_ERR_SUCCESS:  # what TLS has decrypted does not wake a selector
                    return False
        return client is None or not writable or client.loop_write() == paho.MQTT_ERR_SUCCESS

    def _count_reads(self, client: BoundedClient) -> None:
        now = time.monotonic()
        if now - self._second_began >= 1.0:
            self._second_began, client.reads = now, 0
        elif client.reads > _READS_PER_S:
            self._deaf_until = self._second_began + 1.0

    def _not_spoken(self) -> None:
        """Forget a connection that never came to a good answer, and try the other protocol next."""
        self._protocol = (self._protocol + 1) % len(self._protocols)
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
        now = time.monotonic()
        self._failures = 1 if was_connected and now - self._connected_at >= _STEADY_S else self._failures + 1
        self._deaf_until = 0.0
        self._retry_at = now + _RECONNECT.delay_s(self._failures, self._random())
        if was_connected:
            self.on_news()

    def _connect(self) -> None:
        self._outgoing.clear()
        self._answer_by = time.monotonic() + CONNECT_S
        try:
            client = self._client = self._new_client()
            client.connect(self._broker.host, self._broker.port, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError, EdgeFleetError) as error:  # ValueError: paho's word for a host
            if self._failures == 0:  # the next attempts fail alike
                where = f"{self._broker.host}:{self._broker.port}"
                _LOG.warning("the broker at %s does not answer: %s; it is tried again", where, error)
            self.lost()

    def _new_client(self) -> BoundedClient:
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=f"{self._tenant}.{self._device}",
            protocol=self._protocols[self._protocol],
        )
        if self._tls is not None:
            client.tls_set_context(self._tls.context())
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(_QUEUE_LIMIT)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
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
        self._connected, self._connected_at = True, time.monotonic()
        if self._state is not None:
            self.announce(self._state)
        self.on_news()

    def _on_disconnect(self, _client: paho.Client, _data: object, flags: Any, reason: Any, _properties: object) -> None:
        """Count what MQTT 5 says of it: a broker gives a session away when another client comes with its name."""
        if flags.is_disconnect_packet_from_server and reason.value == _SESSION_TAKEN_OVER:
            self.takeovers += 1

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        try:
            if message.topic.endswith("/watermark"):
                self._incoming.append(decode_message(payload, Watermark))
            else:
                self._incoming.append(_hint_or_capabilities(payload))
        except MessageError:
            return  # a malformed message from the broker's side must not stop the device
        self.on_news()

    def _send_waiting(self) -> None:
        while self._connected and self._client is not None and self._outgoing:
            name, payload, retain = self._outgoing.popleft()
            self._client.publish(name, payload, qos=1, retain=retain)


def _hint_or_capabilities(payload: bytes) -> Hint | Capabilities:
    try:
        return decode_message(payload, Hint)
    except MessageError:
        return decode_message(payload, Capabilities)


class NoBroker:
    """The messenger of a device without a broker: it polls, and its outbox fills."""

    connection = 0
    takeovers = 0

    def __init__(self) -> None:
        self.on_news: Callable[[], None] = lambda: None

    def incoming(self) -> list[Watermark | Hint | Capabilities]:
        """Nothing ever comes."""
        return []

    def send(self, message: Message) -> None:
        """There is nobody to send to."""

    def announce(self, state: State) -> None:
        """There is nobody to tell."""

    def close(self, farewell: State | None) -> None:
        """There is nothing to end."""
