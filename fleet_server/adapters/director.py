# SPDX-License-Identifier: Apache-2.0
"""The director: per device, which release to run. Signed lazily, when the device asks and something changed.

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
from fleet_server.adapters.database import Database
from fleet_server.adapters.image_repository import next_version
from fleet_server.adapters.signer_process import SignerProcess
from fleet_server.signer.requests import SignAssignment

LIFETIME_S = timedelta(days=7).total_seconds()
RENEW_AFTER_S = timedelta(days=1).total_seconds()
_LOG = logging.getLogger(__name__)

_CURRENT = """
SELECT d.profile, coalesce(a.counter, 0) AS counter, b.target_path AS target_path,
       s.version, s.counter AS signed_counter, s.signed_at, s.targets, s.snapshot, s.timestamp
FROM device d
LEFT JOIN assignment a ON a.device = d.name AND a.counter = (SELECT max(counter) FROM assignment WHERE device = d.name)
LEFT JOIN release_bundle b ON b.name = a.name AND b.version = a.version AND b.profile = d.profile
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
    target_path: str | None
    signed_counter: int | None
    signed_at: float
    files: DirectorFiles | None


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

    def _is_fresh(self, current: _Current) -> bool:
        return (
            current.files is not None
            and current.signed_counter == current.counter
            and self._clock() - current.signed_at < RENEW_AFTER_S
        )

    def _sign(self, device: str, current: _Current) -> DirectorFiles:
        now = self._clock()
        with self._database.write() as connection:
            version = next_version(connection, f"director/{device}")
        signed = self._signer.sign_assignment(
            SignAssignment(
                device=device,
                profile=current.profile,
                counter=current.counter,
                version=version,
                expires_at=now + LIFETIME_S,
                target_path=current.target_path,
            )
        )
        files = DirectorFiles(version, signed.targets, signed.snapshot, signed.timestamp)
        with self._database.write() as connection:
            _store(connection, device, current.counter, now, files)
        return files


def _read_current(database: Database, device: str) -> _Current:
    row = database.fetch_one(_CURRENT, (device,))
    if row is None:
        raise NotFoundError(f"device '{device}' is not known", hint="invite it: edgefleet devices invite")
    files = None
    if row["timestamp"] is not None:
        files = DirectorFiles(row["version"], row["targets"], row["snapshot"], row["timestamp"])
    return _Current(
        row["profile"], row["counter"], row["target_path"], row["signed_counter"], row["signed_at"] or 0.0, files
    )


def _store(connection: Connection, device: str, counter: int, now: float, files: DirectorFiles) -> None:
    connection.execute(
        text(
            "INSERT OR REPLACE INTO director "
            "(device, version, counter, expires_at, signed_at, targets, snapshot, timestamp) "
            "VALUES (:device, :version, :counter, :expires_at, :signed_at, :targets, :snapshot, :timestamp)"
        ),
        {
            "device": device,
            "version": files.version,
            "counter": counter,
            "expires_at": now + LIFETIME_S,
            "signed_at": now,
            "targets": files.targets,
            "snapshot": files.snapshot,
            "timestamp": files.timestamp,
        },
    )
