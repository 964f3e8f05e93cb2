# SPDX-License-Identifier: Apache-2.0
"""The server's connection to the broker: takes device messages in, sends watermarks and hints out.

MQTT 5 with a shared subscription where the broker speaks it, else 3.1.1. The broker may be away at any time: the
server starts and goes on without it, and this link tries again with a growing pause. Messages that are lost on the
way cost nothing, because devices keep them until a watermark covers them.
"""

import logging
import queue
import ssl
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import EdgeFleetError, SettingError
from edgefleet.contracts.messages import SCHEMA, Capabilities, Hint, Watermark, encode_message
from edgefleet.contracts.topics import UPWARD, subscription, topic
from fleet_server.adapters.devices.order_store import Hinted
from fleet_server.adapters.telemetry.telemetry_store import Arrival, Mark, TelemetryStore

_LOG = logging.getLogger(__name__)
_BATCH = 500
_QUEUE_LIMIT = 50_000
_GATHER_S = 0.05
_CONNACK_S = 5.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_GROUP = "edgefleet-server"


@dataclass(frozen=True)
class BrokerTls:
    """Files for TLS to the broker: the authority of its certificate, and the server's own client certificate."""

    authority: str
    certificate: str
    key: str


@dataclass(frozen=True)
class LinkStatus:
    """What the page and the API say of the link."""

    configured: bool
    connected: bool
    detail: str


def parse_broker(url: str) -> BrokerAddress:
    """Read ``mqtt://HOST:PORT`` or ``mqtts://HOST:PORT``.

    Raises:
        SettingError: it is neither, or holds a name or password (which would stand in the list of processes).
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
        raise SettingError(f"'{url}' is not a broker's address", hint="use mqtt://HOST:PORT or mqtts://HOST:PORT")
    if "@" in parts.netloc:
        raise SettingError(
            f"the broker's address at '{parts.hostname}' holds a name or password, and the server uses neither",
            hint="use mqtts://HOST:PORT: the server shows the broker its certificate",
        )
    tls = parts.scheme == "mqtts"
    return BrokerAddress(host=parts.hostname, port=port or (8883 if tls else 1883), tls=tls)


class MqttLink:
    """Two threads: one keeps the connection, one stores what arrived and answers with watermarks."""

    def __init__(self, broker: BrokerAddress, tls: BrokerTls, tenant: str, store: TelemetryStore) -> None:
        self._broker = broker
        self._tls = tls
        self._tenant = tenant
        self._store = store
        self._arrivals: queue.Queue[Arrival | None] = queue.Queue(_QUEUE_LIMIT)
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._client: mqtt.Client | None = None
        self._detail = "not connected yet"
        self._threads = [
            threading.Thread(target=self._keep_connected, name="mqtt-connection", daemon=True),
            threading.Thread(target=self._store_arrivals, name="mqtt-ingestion", daemon=True),
        ]

    def start(self) -> None:
        """Begin; never waits for the broker."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop both threads; what was received is stored first."""
        self._stop.set()
        self._changed.set()
        self._threads[0].join(timeout=10)
        self._arrivals.put(None)
        self._threads[1].join(timeout=10)

    def status(self) -> LinkStatus:
        """Say whether the broker is there."""
        return LinkStatus(True, self._client is not None, self._detail)

    def send_hints(self, hinted: Sequence[Hinted]) -> None:
        """Tell devices that something is new; a lost hint only costs time."""
        self._publish(
            (topic(self._tenant, new.device, "hint"), encode_message(Hint(v=1, counter=new.counter))) for new in hinted
        )

    def _publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        client = self._client
        if client is None:
            return
        for name, payload in messages:
            with suppress(ValueError, RuntimeError):  # the connection went away: devices ask again
                client.publish(name, payload, qos=1)

    def _keep_connected(self) -> None:
        pause_s, protocol = _FIRST_PAUSE_S, MQTTProtocolVersion.MQTTv5
        while not self._stop.is_set():
            if self._connect_once(protocol):
                pause_s = _FIRST_PAUSE_S
                continue
            other = {MQTTProtocolVersion.MQTTv5: MQTTProtocolVersion.MQTTv311}
            protocol = other.get(protocol, MQTTProtocolVersion.MQTTv5)
            if self._stop.wait(pause_s):
                break
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _connect_once(self, protocol: MQTTProtocolVersion) -> bool:
        """Connect and stay until the connection ends; tell whether it had come about."""
        self._changed.clear()
        try:
            client = self._new_client(protocol)
            client.connect(self._broker.host, self._broker.port, keepalive=30)
        except (OSError, ValueError, ssl.SSLError) as error:
            self._note(f"the broker at {self._broker.host}:{self._broker.port} does not answer: {error}")
            return False
        client.loop_start()
        try:
            self._changed.wait(_CONNACK_S)
            came_about = self._client is not None
            while self._client is not None and not self._stop.is_set():
                self._changed.clear()
                self._changed.wait(1.0)
            return came_about
        finally:
            self._client = None
            with suppress(ValueError, OSError):
                client.disconnect()
            client.loop_stop()

    def _note(self, trouble: str) -> None:
        """Keep why there is no connection, and log it once: the next attempts fail alike."""
        if trouble != self._detail:
            _LOG.warning("%s; it is tried again, and everything else goes on", trouble)
        self._detail = trouble

    def _new_client(self, protocol: MQTTProtocolVersion) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.max_inflight_messages_set(1000)
        if self._broker.tls:
            context = ssl.create_default_context(cafile=self._tls.authority)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            client.tls_set_context(context)
        return client

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._note(f"the broker refuses the server: {reason}")
            self._changed.set()
            return
        shared = client.protocol == MQTTProtocolVersion.MQTTv5
        for channel in UPWARD:
            name = subscription(self._tenant, channel)
            # retained messages are not delivered to shared subscriptions (MQTT 5.0, section 4.8.2)
            client.subscribe(f"$share/{_GROUP}/{name}" if shared and channel != "state" else name, qos=1)
        self._detail = "connected, MQTT 5" if shared else "connected, MQTT 3.1.1"
        self._client = client
        self._changed.set()

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._client is client:
            self._detail = f"the connection to the broker ended: {reason}"
            self._client = None
        self._changed.set()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with suppress(queue.Full, UnicodeDecodeError):  # dropped: the device sends it again, or it was no device
            self._arrivals.put_nowait(Arrival(message.topic, bytes(message.payload)))

    def _store_arrivals(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._say_schema(batch)
                self._send_marks(self._store.store(batch))
            except EdgeFleetError as error:
                _LOG.error("messages were not stored, devices will send them again: %s", error)
                self._stop.wait(1.0)
            except Exception:  # noqa: BLE001 - a fault of ours, over one message: the others must not suffer for it
                _LOG.exception("messages are stored one by one, because of a fault in EdgeFleet")
                self._store_singly(batch)

    def _store_singly(self, batch: Sequence[Arrival]) -> None:
        for arrival in batch:
            try:
                self._send_marks(self._store.store([arrival]))
            except Exception as error:  # noqa: BLE001 - as above
                _LOG.error("a message on '%s' was not stored: %s", arrival.topic, error)

    def _say_schema(self, batch: Sequence[Arrival]) -> None:
        """Tell devices that come, or change, which messages this server understands."""
        capabilities = encode_message(Capabilities(v=1, schema=SCHEMA))
        self._publish(
            (f"{arrival.topic.removesuffix('/state')}/hint", capabilities)
            for arrival in batch
            if arrival.topic.endswith("/state")
        )

    def _send_marks(self, marks: Sequence[Mark]) -> None:
        self._publish(
            (
                topic(self._tenant, mark.device, "watermark"),
                encode_message(Watermark(v=1, epoch=mark.epoch, sequence=mark.sequence)),
            )
            for mark in marks
        )

    def _next_batch(self) -> list[Arrival] | None:
        """Wait for a message, and take what else arrives within a moment; None: it is over."""
        first = self._arrivals.get()
        if first is None:
            return None
        batch = [first]
        with suppress(queue.Empty):
            while len(batch) < _BATCH:
                arrival = self._arrivals.get(timeout=_GATHER_S)
                if arrival is None:
                    self._arrivals.put(None)
                    break
                batch.append(arrival)
        return batch
