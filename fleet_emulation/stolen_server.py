# SPDX-License-Identifier: Apache-2.0
"""An attacker who has the whole server: its database and its online keys, but no approver's key.

The attacker takes a release that one of two approvers has signed, publishes that half-signed metadata with a snapshot
and a timestamp of the stolen key, and orders every device to run it. All signatures of the online roles are genuine,
so only the threshold that the *devices* verify stands in the way.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import Hint, encode_message
from edgefleet.contracts.topics import topic
from edgefleet.contracts.tuf_custom import Assignment, to_custom
from fleet_server.adapters.keys.key_files import load_signer
from fleet_server.core.trust.delegation import production_role
from fleet_server.core.trust.tuf_types import Metadata, MetaFile, Signer, Snapshot, TargetFile, Targets, Timestamp

_LIFETIME = timedelta(days=7)
_PUBLISH_LIMIT_S = 10.0


@dataclass
class StolenServer:
    """The attacker's view: the server's database file, and the folder with its online keys."""

    database: Path
    keys: Path
    tenant: str
    image_key: str = "image"
    director_key: str = "director"
    _forged_orders: list[tuple[str, int]] = field(default_factory=list)
    _forged_roles: list[tuple[str, int]] = field(default_factory=list)

    def publish_half_signed(self, name: str, version: str) -> int:
        """Serve the proposal of a release as if its threshold were met; return how many people signed it.

        Raises:
            EdgeFleetError: nobody has signed it yet.
        """
        key = load_signer(self.keys, self.image_key)
        with self._open() as rows:
            proposal = rows.execute(
                "SELECT proposal FROM release WHERE name = ? AND version = ?", (name, version)
            ).fetchone()
            if proposal is None or proposal[0] is None:
                raise EdgeFleetError(
                    f"nobody has signed {name} {version} yet", hint="let one approver approve it, then steal it"
                )
            half = Metadata[Targets].from_bytes(bytes(proposal[0]))
            self._store_role(rows, production_role(name), half.signed.version, bytes(proposal[0]))
            self._publish_snapshot(rows, key, production_role(name), half.signed.version)
        return len(half.signatures)

    def order_everyone(self, name: str, version: str) -> int:
        """Order every enrolled device to run the release; return how many."""
        key = load_signer(self.keys, self.director_key)
        role = production_role(name)
        with self._open() as rows:
            newest = rows.execute(
                "SELECT content FROM image_metadata WHERE role = ? ORDER BY version DESC LIMIT 1", (role,)
            ).fetchone()
            targets = Metadata[Targets].from_bytes(bytes(newest[0])).signed.targets
            devices = rows.execute("SELECT name, profile FROM device WHERE enrolled_at IS NOT NULL").fetchall()
            for device, profile in devices:
                path = f"{name}/{version}/{name}-{version}-{profile}.bundle"
                if path in targets:
                    self._order(rows, key, Order(device, profile, targets[path]), name, version)
        return len(self._forged_orders)

    def wake_everyone(self, broker_port: int) -> None:
        """Send every device that was ordered a hint, as the server would, by the broker on 127.0.0.1."""
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        client.connect("127.0.0.1", broker_port)
        client.loop_start()
        for device, counter in self._forged_orders:
            hint = encode_message(Hint(v=1, counter=counter))
            client.publish(topic(self.tenant, device, "hint"), hint, qos=1).wait_for_publish(_PUBLISH_LIMIT_S)
        client.disconnect()
        client.loop_stop()

    def clean_up(self) -> None:
        """Remove what was forged, as the operator does who restores the server; its counters stay ahead."""
        with self._open() as rows:
            rows.executemany("DELETE FROM image_metadata WHERE role = ? AND version = ?", self._forged_roles)
            for device, counter in self._forged_orders:
                rows.execute("DELETE FROM assignment WHERE device = ? AND counter = ?", (device, counter))
                rows.execute("DELETE FROM director WHERE device = ?", (device,))
            # Without a newest snapshot the server publishes anew, with versions above what devices have seen.
            rows.execute("DELETE FROM image_metadata WHERE role IN ('snapshot', 'timestamp')")
        self._forged_orders.clear()
        self._forged_roles.clear()

    def _publish_snapshot(self, rows: sqlite3.Connection, key: Signer, role: str, role_version: int) -> None:
        newest = rows.execute(
            "SELECT content FROM image_metadata WHERE role = 'snapshot' ORDER BY version DESC LIMIT 1"
        ).fetchone()
        meta = {**Metadata[Snapshot].from_bytes(bytes(newest[0])).signed.meta, f"{role}.json": MetaFile(role_version)}
        version = _take_version(rows, "image")
        snapshot = Metadata(Snapshot(version=version, expires=_expiry(), meta=meta))
        timestamp = Metadata(Timestamp(version=version, expires=_expiry(), snapshot_meta=MetaFile(version)))
        for name, metadata in (("snapshot", snapshot), ("timestamp", timestamp)):
            self._store_role(rows, name, version, _signed(metadata, key))

    def _order(self, rows: sqlite3.Connection, key: Signer, order: "Order", name: str, version: str) -> None:
        row = rows.execute("SELECT max(counter) FROM assignment WHERE device = ?", (order.device,)).fetchone()
        counter = int(row[0] or 0) + 1
        number = _take_version(rows, f"director/{order.device}")
        now = time.time()
        rows.execute(
            "INSERT INTO assignment (device, counter, name, version, purpose, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (order.device, counter, name, version, "forged", now),
        )
        targets, snapshot, timestamp = self._director_files(key, order, counter, number)
        rows.execute(
            "INSERT OR REPLACE INTO director (device, version, counter, expires_at, signed_at, targets, snapshot, "
            "timestamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (order.device, number, counter, now + _LIFETIME.total_seconds(), now, targets, snapshot, timestamp),
        )
        self._forged_orders.append((order.device, counter))

    def _director_files(self, key: Signer, order: "Order", counter: int, number: int) -> tuple[bytes, bytes, bytes]:
        binding = Assignment(tenant=self.tenant, device=order.device, profile=order.profile, counter=counter)
        file = TargetFile(length=order.file.length, hashes=dict(order.file.hashes), path=order.file.path)
        targets = Targets(
            version=number, expires=_expiry(), targets={file.path: file}, unrecognized_fields=to_custom(binding)
        )
        snapshot = Snapshot(version=number, expires=_expiry(), meta={"targets.json": MetaFile(number)})
        timestamp = Timestamp(version=number, expires=_expiry(), snapshot_meta=MetaFile(number))
        return (
            _signed(Metadata(targets), key),
            _signed(Metadata(snapshot), key),
            _signed(Metadata(timestamp), key),
        )

    def _store_role(self, rows: sqlite3.Connection, role: str, version: int, content: bytes) -> None:
        rows.execute("INSERT INTO image_metadata (role, version, content) VALUES (?, ?, ?)", (role, version, content))
        self._forged_roles.append((role, version))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.database, timeout=30.0)
        try:
            with connection:
                yield connection
        finally:
            connection.close()


@dataclass(frozen=True)
class Order:
    """One forged order: who shall run which file."""

    device: str
    profile: str
    file: TargetFile


def _signed(metadata: Metadata[Any], key: Signer) -> bytes:
    metadata.sign(key)
    return metadata.to_bytes()


def _expiry() -> datetime:
    return (datetime.now(UTC) + _LIFETIME).replace(microsecond=0)


def _take_version(rows: sqlite3.Connection, what: str) -> int:
    row = rows.execute(
        "INSERT INTO version_counter (what, value) VALUES (?, 1) "
        "ON CONFLICT (what) DO UPDATE SET value = value + 1 RETURNING value",
        (what,),
    ).fetchone()
    return int(row[0])
