# SPDX-License-Identifier: Apache-2.0
"""The director: per device, which releases to run, one of each product.

Signed lazily, when the device asks and something changed.

A version is taken in a transaction of its own before anything is signed with it; so versions grow through crashes,
and what was never served is simply skipped. The reads of the device path are plain SQL.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.engine import Connection

from edgefleet.contracts.errors import EdgeFleetError, NotFoundError
from edgefleet.contracts.names import bundle_target_path
from fleet_server.adapters.devices.order_store import read_lift, read_members
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.releases.image_repository import next_version
from fleet_server.adapters.storage.database import Database
from fleet_server.signer.requests import SignAssignment

LIFETIME_S = timedelta(days=7).total_seconds()
RENEW_AFTER_S = timedelta(days=1).total_seconds()
_LOG = logging.getLogger(__name__)

_CURRENT = """
SELECT d.profile, coalesce(a.counter, 0) AS counter, a.members, a.lift, a.name, a.version AS release_version,
       a.bundle_sha256,
       i.grace_until AS grace_until, s.grace_until AS signed_grace,
       s.version, s.counter AS signed_counter, s.signed_at, s.targets, s.snapshot, s.timestamp
FROM device d
LEFT JOIN assignment a ON a.device = d.name AND a.counter = (SELECT max(counter) FROM assignment WHERE device = d.name)
LEFT JOIN device_identity i ON i.device = d.name
LEFT JOIN director s ON s.device = d.name
WHERE d.name = ?
"""


@dataclass(frozen=True)
class DirectorFiles:
    """The three files of one device, all of one version."""

    version: int
    targets: bytes
    snapshot: bytes
    timestamp: bytes


@dataclass(frozen=True)
class _Current:
    profile: str
    counter: int
    target_paths: tuple[str, ...]
    signed_counter: int | None
    signed_at: float
    files: DirectorFiles | None
    grace_until: int | None = None
    signed_grace: int | None = None
    lift: tuple[str, ...] = ()


class Director:
    """Serves each device its own metadata."""

    def __init__(self, database: Database, signer: SignerProcess, clock: Callable[[], float]) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._signing = threading.Lock()

    def fresh_files(self, device: str) -> DirectorFiles | None:
        """Return the device's files if they need no new signature; quick, one point read."""
        current = _read_current(self._database, device)
        return current.files if self._is_fresh(current) else None

    def served_files(self, device: str) -> DirectorFiles | None:
        """Return the device's files as they were signed last, whatever was ordered since."""
        return _read_current(self._database, device).files

    def sign_files(self, device: str) -> DirectorFiles:
        """Return the device's files, signed anew if the order changed or the signature is a day old.

        Where the signer refuses the new order, the device goes on with its last one, and the refusal is logged.

        Raises:
            EdgeFleetError: the signer refuses, and there is no earlier order.
        """
        with self._signing:
            current = _read_current(self._database, device)
            if current.files is not None and self._is_fresh(current):
                return current.files
            try:
                return self._sign(device, current)
            except EdgeFleetError as error:
                _LOG.warning("no new order for device %s: %s", device, error)
                if current.files is None:
                    raise
                return current.files

    def sign_offline(self, device: str, expires_at: float) -> DirectorFiles:
        """Return files of the newest order that live until a time of one's own choice (Unix seconds).

        They are never served. What is served next has higher versions, so that a device which comes back to the
        network meets nothing older than it was brought.

        Raises:
            NotFoundError: the device is not known.
            EdgeFleetError: the signer refuses.
        """
        with self._signing:
            current = _read_current(self._database, device)
            with self._database.write() as connection:
                version = next_version(connection, f"director/{device}")
            files = self._signed(device, current, version, expires_at, offline=True)
            with self._database.write() as connection:
                connection.execute(text("UPDATE director SET signed_at = 0 WHERE device = :device"), {"device": device})
            return files

    def _is_fresh(self, current: _Current) -> bool:
        return (
            current.files is not None
            and current.signed_counter == current.counter
            and current.signed_grace == current.grace_until
            and self._clock() - current.signed_at < RENEW_AFTER_S
        )

    def _sign(self, device: str, current: _Current) -> DirectorFiles:
        now = self._clock()
        with self._database.write() as connection:
            version = next_version(connection, f"director/{device}")
        files = self._signed(device, current, version, now + LIFETIME_S, offline=False)
        with self._database.write() as connection:
            _store(connection, device, current, now, files)
        return files

    def _signed(
        self, device: str, current: _Current, version: int, expires_at: float, *, offline: bool
    ) -> DirectorFiles:
        signed = self._signer.sign_assignment(
            SignAssignment(
                device=device,
                profile=current.profile,
                counter=current.counter,
                version=version,
                expires_at=expires_at,
                offline=offline,
                target_paths=current.target_paths,
                renewal_grace_until=current.grace_until,
                lift=current.lift,
            )
        )
        return DirectorFiles(version, signed.targets, signed.snapshot, signed.timestamp)


def _read_current(database: Database, device: str) -> _Current:
    row = database.fetch_one(_CURRENT, (device,))
    if row is None:
        raise NotFoundError(f"device '{device}' is not known", hint="invite it: edgefleet devices invite")
    files = None
    if row["timestamp"] is not None:
        files = DirectorFiles(row["version"], row["targets"], row["snapshot"], row["timestamp"])
    ordered = read_members(row["members"], row["name"], row["release_version"], row["bundle_sha256"])
    return _Current(
        row["profile"],
        row["counter"],
        tuple(
            one.target_path or bundle_target_path(name, one.version, row["profile"])
            for name, one in sorted(ordered.items())
        ),
        row["signed_counter"],
        row["signed_at"] or 0.0,
        files,
        row["grace_until"],
        row["signed_grace"],
        read_lift(row["lift"]),
    )


def _store(connection: Connection, device: str, current: _Current, now: float, files: DirectorFiles) -> None:
    connection.execute(
        text(
            "INSERT OR REPLACE INTO director "
            "(device, version, counter, expires_at, signed_at, targets, snapshot, timestamp, grace_until) "
            "VALUES (:device, :version, :counter, :expires_at, :signed_at, :targets, :snapshot, :timestamp, "
            ":grace_until)"
        ),
        {
            "device": device,
            "version": files.version,
            "counter": current.counter,
            "grace_until": current.grace_until,
            "expires_at": now + LIFETIME_S,
            "signed_at": now,
            "targets": files.targets,
            "snapshot": files.snapshot,
            "timestamp": files.timestamp,
        },
    )
