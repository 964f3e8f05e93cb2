# SPDX-License-Identifier: Apache-2.0
"""``python -m fleet_emulation.reporting_device OUTBOX DEVICE PORT EVERY_S PROMISES``: an agent's reporting, alone.

Its outbox, its reporter and its MQTT, as an agent has them, without anything to report on: an event is stored every so
often, and a line ``EPOCH SEQUENCE`` in the file PROMISES says that it is. It is there to be killed.
"""

import os
import sys
import time
from pathlib import Path

from device_agent.adapters.network.mqtt import MqttChannel
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.reporting import Reporter
from device_agent.wiring import SystemClock
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.messages import Capabilities, Event, Gap, Message, State, Telemetry, Watermark
from fleet_emulation.reporting_rig import TENANT

_TICK_S = 0.01
_LIMIT_BYTES = 8 << 20


class PromisingOutbox(OutboxFile):
    """Says of each message that it is stored."""

    def __init__(self, path: Path, device: str, promises: Path) -> None:
        super().__init__(path, device, limit_bytes=_LIMIT_BYTES)
        self._promises = os.open(promises, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, body: Telemetry | Event | Gap, *, created_at: float) -> Message:
        """Store a message, then promise it."""
        message = super().append(body, created_at=created_at)
        os.write(self._promises, f"{message.epoch} {message.sequence}\n".encode())
        return message


def main(arguments: list[str]) -> None:
    """Report until killed."""
    path, device, port, every_s, promises = arguments
    address = BrokerAddress(host="127.0.0.1", port=int(port), tls=False)
    channel = MqttChannel(MqttPump(), tenant=TENANT, device=device, broker=address, tls=None, random=lambda: 0.0)
    reporter = Reporter(PromisingOutbox(Path(path), device, Path(promises)), channel, SystemClock())
    state = State(v=1, device=device, profile="p", connected=True, status="idle", agent_version="1")
    next_at = time.monotonic()
    while True:
        if float(every_s) and time.monotonic() >= next_at:
            reporter.event(Event(kind="verified", cause="downloaded"))
            next_at += float(every_s)
        for said in channel.incoming():
            if isinstance(said, Watermark):
                reporter.stored(said)
            elif isinstance(said, Capabilities):
                reporter.understood(said)
        reporter.announce(state)
        reporter.send()
        time.sleep(_TICK_S)


if __name__ == "__main__":
    main(sys.argv[1:])
