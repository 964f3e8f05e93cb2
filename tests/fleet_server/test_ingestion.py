# SPDX-License-Identifier: Apache-2.0
"""Device messages, against real brokers: stored once, durable before the watermark, and never fatal."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgefleet.contracts.messages import (
    Confusion,
    Event,
    Gap,
    Message,
    ModelWindow,
    RunningRelease,
    Telemetry,
    encode_message,
)
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.telemetry.telemetry_store import Arrival, Mark, TelemetryStore

RELEASE = RunningRelease(name="digits", version="1.0.0", bundle_sha256="b" * 64)
EPOCH = "0" * 16


def telemetry(right: int, wrong: int) -> Telemetry:
    labelled = Confusion(actual=(3, 3), predicted=(3, 5), counts=(right, wrong))
    window = ModelWindow(release=RELEASE, role="trial", requests=right + wrong, labelled=labelled)
    return Telemetry(window_start=1.0, window_end=2.0, models=(window,))


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_messages_are_stored_once_and_the_watermark_follows(
    kind: str, new_broker: Any, new_server: Any, telemetry_link: Any, wait_for: Any
) -> None:
    broker = new_broker(kind)
    server = new_server(broker=broker.url)
    server.enrol("d1")
    expected = {"mosquitto": "connected, MQTT 5", "amqtt": "connected, MQTT 3.1.1"}[kind]
    wait_for(lambda: server.call("health")["broker"] == expected, expected)
    link = telemetry_link(broker.port)

    first = link.send("d1", telemetry(3, 1))
    link.send("d1", telemetry(5, 0), sequence=2)
    wait_for(lambda: link.watermark("d1") == 2, "the watermark 2")
    link.publish("edgefleet/v1/acme/d1/telemetry", first)  # sent again, as after a lost acknowledgement
    link.send("d1", Event(kind="committed", cause="all-well", release=RELEASE, counter=1), sequence=4)
    link.publish("edgefleet/v1/acme/d1/event", b"nonsense")
    link.publish("edgefleet/v1/acme/d2/event", first)
    link.send("stranger", telemetry(1, 1))
    wait_for(lambda: server.call("fleet")["ingestion"].get("unknown-device") == 1, "the stranger's message")
    assert link.watermark("d1") == 2
    link.send("d1", Gap(first=3, last=3), sequence=5)
    wait_for(lambda: link.watermark("d1") == 5, "the watermark behind the gap")

    counts = server.call("fleet")["ingestion"]
    assert counts == {"stored": 4, "repeated": 1, "malformed": 2, "unknown-device": 1}
    (figures,) = server.call("figures")
    assert (figures["devices"], figures["requests"], figures["labelled"], figures["correct"]) == (1, 9, 9, 8)
    cells = server.call(f"figures/{'b' * 64}/confusion")
    assert cells == [{"actual": 3, "predicted": 3, "count": 8}, {"actual": 3, "predicted": 5, "count": 1}]
    assert [event["kind"] for event in server.call("events")] == ["committed"]


def test_a_decommissioned_device_is_heard_no_more_though_the_broker_still_lets_it_in(
    new_broker: Any, new_server: Any, telemetry_link: Any, wait_for: Any, cli: Any
) -> None:
    broker = new_broker()
    server = new_server(broker=broker.url)
    for name in ("d1", "d2"):
        server.enrol(name)
    wait_for(lambda: server.call("health")["broker_connected"], "the server at the broker")
    link = telemetry_link(broker.port)
    link.send("d1", telemetry(3, 1))
    wait_for(lambda: link.watermark("d1") == 1, "the watermark of a device of the fleet")
    cli("devices", "decommission", "d1", "--yes", "--home", server.admin)
    link.send("d1", telemetry(100, 0))
    link.state("d1", RELEASE, counter=9)
    link.send("d2", telemetry(1, 0))
    wait_for(lambda: link.watermark("d2") == 1, "the watermark of another device")
    counts = server.call("fleet")["ingestion"]
    assert counts == {"stored": 2, "unknown-device": 1}
    assert link.watermark("d1") == 1
    assert server.call("devices/d1")["state"] is None


def test_a_broker_that_is_away_is_told_of_and_found_again(
    new_broker: Any, new_server: Any, telemetry_link: Any, wait_for: Any
) -> None:
    broker = new_broker()
    server = new_server(broker=broker.url)
    server.enrol("d1")
    wait_for(lambda: server.call("health")["broker_connected"], "the broker")
    broker.process.kill()
    broker.process.wait()
    wait_for(lambda: not server.call("health")["broker_connected"], "the server to notice")
    assert server.call("devices")[0]["name"] == "d1"
    new_broker(port=broker.port)
    wait_for(lambda: server.call("health")["broker_connected"], "the broker again")
    link = telemetry_link(broker.port)
    link.send("d1", telemetry(1, 0))
    wait_for(lambda: link.watermark("d1") == 1, "the watermark")


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> TelemetryStore:
    database = Database(tmp_path / "fleet.db")
    database.migrate()
    with database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO device (name, profile, invited_at, enrolled_at) VALUES ('d1', 'linux-x86_64', 1, 1)"
        )
    return TelemetryStore(database, "acme", lambda: 100.0)


def arrival(body: Any, *, sequence: int = 1, epoch: str = EPOCH, device: str = "d1") -> Arrival:
    message = Message(v=1, device=device, epoch=epoch, sequence=sequence, created_at=1.0, body=body)
    return Arrival("edgefleet/v1/acme/d1/telemetry", encode_message(message))


def test_what_store_returned_is_on_disk_and_each_epoch_has_its_own_watermark(
    store: TelemetryStore, tmp_path: Path
) -> None:
    other = "1" * 16
    marks = store.store([arrival(telemetry(1, 0)), arrival(telemetry(1, 0), sequence=7, epoch=other)])
    assert marks == [Mark("d1", EPOCH, 1), Mark("d1", other, 0)]
    outside = sqlite3.connect(tmp_path / "fleet.db")
    assert outside.execute("SELECT epoch, sequence FROM message ORDER BY epoch").fetchall() == [(EPOCH, 1), (other, 7)]
    outside.close()


@pytest.mark.parametrize(
    "bad",
    [
        Arrival("elsewhere", b"{}"),
        Arrival("edgefleet/v1/other/d1/event", arrival(telemetry(1, 0)).payload),
        Arrival("edgefleet/v1/acme/d1/state", arrival(telemetry(1, 0)).payload),
        arrival(telemetry(1 << 60, 0)),
        arrival(Gap(first=1, last=1 << 60)),
        arrival(telemetry(1, 0), sequence=1 << 60),
        Arrival("edgefleet/v1/acme/d1/telemetry", b"[" * 100_000),
        Arrival("edgefleet/v1/acme/d1/telemetry", b"\xff" * 200_000),
    ],
    ids=["topic", "tenant", "channel", "count", "gap", "sequence", "nesting", "size"],
)
def test_a_malformed_message_is_counted_and_harms_no_other(store: TelemetryStore, bad: Arrival) -> None:
    assert store.store([bad, arrival(telemetry(2, 0))]) == [Mark("d1", EPOCH, 1)]
    assert store.counts() == {"malformed": 1, "stored": 1}
