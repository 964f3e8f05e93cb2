# SPDX-License-Identifier: Apache-2.0
"""Orders in the database: which releases a device is to run, one of each product. Callers own the transaction.

An order says what changes and, as ``members``, all that the device is to run from then on; a rollout of one product
leaves the others as they are. An order's counter is the device's newest plus one, taken in the transaction that stores
the order: two orders never share a counter, whatever dies when.

What an order lifts out of a device's quarantine is in the later ones too, until the device has seen one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from sqlalchemy import insert
from sqlalchemy.engine import Connection

from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.software import SOFTWARE_NAME
from fleet_server.adapters.storage.schema import assignment


@dataclass(frozen=True)
class Hinted:
    """A device that has a new order, and the order's counter."""

    device: str
    counter: int


class OrderedRelease(msgspec.Struct, frozen=True, omit_defaults=True):
    """The version of a product that a device is to run; software says where its file lies, for its device's machine."""

    version: str
    bundle_sha256: str
    target_path: str = ""


#: What a device is to run, by product.
OrderedSet: TypeAlias = dict[str, OrderedRelease]


class _Reported(msgspec.Struct):
    running: RunningRelease | None = None
    also_running: tuple[RunningRelease, ...] = ()
    software: RunningRelease | None = None


def read_members(members: str | None, name: str | None, version: str | None, bundle_sha256: str | None) -> OrderedSet:
    """Return the set that a row of ``assignment`` orders; rows of older servers have no members but their own."""
    if members is not None:
        return msgspec.json.decode(members, type=OrderedSet)
    return {name: OrderedRelease(version, bundle_sha256)} if name and version and bundle_sha256 else {}


def describe(ordered: OrderedSet) -> str | None:
    """Return a set as one reads it, such as ``wake-word 2.0.1, gesture 1.4.0``; None if it is empty."""
    return ", ".join(f"{name} {release.version}" for name, release in sorted(ordered.items())) or None


def newest_order(connection: Connection, device: str) -> tuple[int, OrderedSet]:
    """Return the counter of a device's newest order, 0 if there is none, and what it orders."""
    row = connection.exec_driver_sql(
        "SELECT counter, members, name, version, bundle_sha256 FROM assignment WHERE device = ? "
        "ORDER BY counter DESC LIMIT 1",
        (device,),
    ).first()
    return (row.counter, read_members(*row[1:])) if row is not None else (0, {})


def insert_order(
    connection: Connection,
    device: str,
    name: str,
    release: OrderedRelease | None,
    *,
    rollout_id: str,
    purpose: str,
    now: float,
) -> int:
    """Order a device to run this release of a product (None: none), and the others as before; return the counter."""
    newest, before = newest_order(connection, device)
    members = {other: kept for other, kept in before.items() if other != name} | ({name: release} if release else {})
    row = {
        "name": name,
        "version": release.version if release else None,
        "bundle_sha256": release.bundle_sha256 if release else None,
        "rollout_id": rollout_id,
        "purpose": purpose,
        "created_at": now,
    }
    return _insert(connection, device, newest + 1, members, _unseen_lift(connection, device), row)


def insert_lift(connection: Connection, device: str, sha256s: Sequence[str], *, now: float) -> int:
    """Order a device to run what it is ordered to run, and to try these bundles once more; return the counter."""
    newest, members = newest_order(connection, device)
    lift = sorted({*_unseen_lift(connection, device), *sha256s})
    row = {"rollout_id": "", "purpose": "lift", "created_at": now}
    return _insert(connection, device, newest + 1, members, lift, row)


def _insert(
    connection: Connection,
    device: str,
    counter: int,
    members: OrderedSet,
    lift: Sequence[str],
    row: Mapping[str, object],
) -> int:
    texts = {
        "members": msgspec.json.encode(members, order="sorted").decode(),
        "lift": msgspec.json.encode(lift).decode() if lift else None,
    }
    connection.execute(insert(assignment).values(device=device, counter=counter, **texts, **row))
    return counter


def read_lift(lift: str | None) -> tuple[str, ...]:
    """Return the bundles that a row of ``assignment`` lifts out of a device's quarantine."""
    return msgspec.json.decode(lift, type=tuple[str, ...]) if lift else ()


def _unseen_lift(connection: Connection, device: str) -> tuple[str, ...]:
    """Return what the newest order lifts, if the device has not said that it saw it."""
    row = connection.exec_driver_sql(
        "SELECT a.lift, a.counter, s.counter AS seen FROM assignment a LEFT JOIN device_state s ON s.device = a.device "
        "WHERE a.device = ? ORDER BY a.counter DESC LIMIT 1",
        (device,),
    ).first()
    return read_lift(row.lift) if row is not None and (row.seen or 0) < row.counter else ()


def release_before(connection: Connection, device: str, name: str) -> OrderedRelease | None:
    """Return what a device runs of a product, as far as it says so and the release is approved; else its order."""
    body = connection.exec_driver_sql("SELECT body FROM device_state WHERE device = ?", (device,)).scalar()
    sha256 = running_of(body, name)
    row = connection.exec_driver_sql(
        "SELECT b.version, b.sha256 FROM release_bundle b "
        "JOIN release r ON r.name = b.name AND r.version = b.version AND r.state = 'approved' "
        "WHERE b.sha256 = ? AND b.name = ?",
        (sha256, name),
    ).first()
    if row is not None:
        return ordered_release(connection, name, row.version, row.sha256)
    return newest_order(connection, device)[1].get(name)


def ordered_release(connection: Connection, name: str, version: str, sha256: str) -> OrderedRelease:
    """Return a release as an order names it."""
    if name != SOFTWARE_NAME:
        return OrderedRelease(version, sha256)
    sql = "SELECT target_path FROM release_bundle WHERE name = ? AND version = ? AND sha256 = ?"
    path = connection.exec_driver_sql(sql, (name, version, sha256)).scalar()
    return OrderedRelease(version, sha256, path or "")


def withdraw_software(connection: Connection, device: str, now: float) -> None:
    """Order no software any more from a device whose agent cannot read such an order, if it has one."""
    if SOFTWARE_NAME in newest_order(connection, device)[1]:
        insert_order(connection, device, SOFTWARE_NAME, None, rollout_id="", purpose="withdrawn", now=now)


def running_of(body: str | None, name: str) -> str | None:
    """Return the hash of the file of a product that a device runs, by its reported state."""
    if body is None:
        return None
    state = msgspec.json.decode(body, type=_Reported)
    running = (state.running, *state.also_running, state.software)
    return next((release.bundle_sha256 for release in running if release is not None and release.name == name), None)


def devices_behind(connection: Connection) -> dict[str, int]:
    """Return the counter of the newest order of each connected device that has not seen it."""
    rows = connection.exec_driver_sql(
        "SELECT s.device, MAX(a.counter) AS newest FROM device_state s JOIN assignment a ON a.device = s.device "
        "WHERE s.connected GROUP BY s.device HAVING newest > s.counter ORDER BY s.device"
    )
    return {row.device: row.newest for row in rows}
