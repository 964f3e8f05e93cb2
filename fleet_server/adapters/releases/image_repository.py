# SPDX-License-Identifier: Apache-2.0
"""The image repository: which bundles exist. Metadata lives in the database, files in a folder.

Publishing has three steps, so that a crash between any two loses nothing and repeats no version:

1. one transaction stores what people signed and takes the next versions for snapshot and timestamp;
2. the signer checks and signs both;
3. one transaction stores them, and from then on they are served.

After a crash :meth:`ImageRepository.publish_if_due` sees roles that the served snapshot does not list, and does
steps 1 to 3 again with higher versions.
"""

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from sqlalchemy import insert, select, text
from sqlalchemy.engine import Connection

from edgefleet.contracts.errors import ConflictError, StorageError
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.schema import image_metadata, repository_root
from fleet_server.core.trust.approved import verify_approvals
from fleet_server.core.trust.delegation import read_targets
from fleet_server.core.trust.tuf_types import Metadata, Root, Snapshot, Timestamp
from fleet_server.signer.requests import SignSnapshot, SignTimestamp

SNAPSHOT_LIFETIME_S = timedelta(days=30).total_seconds()
TIMESTAMP_LIFETIME_S = timedelta(days=1).total_seconds()
_RENEW_BEFORE_S = timedelta(hours=18).total_seconds()
_ONLINE = ("snapshot", "timestamp")


class ImageRepository:
    """Reads and publishes; one publication at a time."""

    def __init__(
        self, database: Database, targets_dir: Path, signer: SignerProcess, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._targets_dir = targets_dir
        self._signer = signer
        self._clock = clock
        self._publishing = threading.Lock()

    def newest(self, role: str) -> bytes | None:
        """Return a role's newest metadata, or None."""
        with self._database.read() as connection:
            return _newest(connection).get(role)

    def publish(
        self, changed: Mapping[str, bytes], *, also: Callable[[Connection], None] = lambda _connection: None
    ) -> None:
        """Publish roles that people signed; ``also`` runs in the transaction that makes them served.

        Raises:
            ConflictError: a role's version is not the one after the newest.
            TrustError: the signer refuses; nothing is served.
        """
        with self._publishing:
            now = self._clock()
            with self._database.read() as connection:
                current = _newest(connection)
                root = Metadata[Root].from_bytes(newest_root(connection, "image"))
            roles = {role: data for role, data in current.items() if role not in _ONLINE} | dict(changed)
            for role, data in changed.items():
                _check_next(role, current.get(role), data)
            delegated = {role: data for role, data in roles.items() if role != "targets"}
            verify_approvals(root, roles["targets"], delegated)
            with self._database.write() as connection:
                for role, data in changed.items():
                    _insert(connection, role, read_targets(data, role).signed.version, data)
                version = next_version(connection, "image")
            snapshot, timestamp = self._sign(version, roles["targets"], delegated, now)
            with self._database.write() as connection:
                _insert(connection, "snapshot", version, snapshot)
                _insert(connection, "timestamp", version, timestamp)
                also(connection)

    def sign_offline(self, expires_at: float) -> tuple[dict[str, bytes], bytes, bytes]:
        """Return the roles that people signed, and a snapshot and timestamp of them that live until ``expires_at``.

        These two are never served; what is served from now on has higher versions.

        Raises:
            EdgeFleetError: the signer refuses.
        """
        with self._publishing:
            with self._database.read() as connection:
                roles = {role: data for role, data in _newest(connection).items() if role not in _ONLINE}
            with self._database.write() as connection:
                version = next_version(connection, "image")
            delegated = {role: data for role, data in roles.items() if role != "targets"}
            snapshot = self._signer.sign_snapshot(
                SignSnapshot(
                    version=version, expires_at=expires_at, offline=True, targets=roles["targets"], delegated=delegated
                )
            )
            timestamp = self._signer.sign_timestamp(
                SignTimestamp(version=version, expires_at=expires_at, offline=True, snapshot=snapshot)
            )
        self.publish({})
        return roles, snapshot, timestamp

    def _sign(self, version: int, targets: bytes, delegated: dict[str, bytes], now: float) -> tuple[bytes, bytes]:
        snapshot = self._signer.sign_snapshot(
            SignSnapshot(version=version, expires_at=now + SNAPSHOT_LIFETIME_S, targets=targets, delegated=delegated)
        )
        timestamp = self._signer.sign_timestamp(
            SignTimestamp(version=version, expires_at=now + TIMESTAMP_LIFETIME_S, snapshot=snapshot)
        )
        return snapshot, timestamp

    def publish_if_due(self) -> bool:
        """Finish what a crash cut off, or renew a timestamp of six hours; tell whether there was anything to do."""
        with self._database.read() as connection:
            current = _newest(connection)
        if _is_complete(current) and _expires_at(current["timestamp"]) - self._clock() > _RENEW_BEFORE_S:
            return False
        self.publish({})
        return True

    def add_file(self, source: Path, target_path: str, sha256: str) -> None:
        """Put a verified file where clients of consistent snapshots look for it (idempotent)."""
        destination = self._targets_dir / prefixed(target_path, sha256)
        if destination.exists():
            return
        temporary = destination.with_name(f".{destination.name}.new")
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.rename(destination)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageError(
                f"cannot store '{target_path}': {error.strerror}", hint="check free space and permissions"
            ) from error


def prefixed(target_path: str, sha256: str) -> str:
    """Return a target path with the hash before the file name, as consistent snapshots name files."""
    folder, _, name = target_path.rpartition("/")
    return f"{folder}/{sha256}.{name}"


def next_version(connection: Connection, what: str) -> int:
    """Take the next number of a counter; it is used up once the transaction commits."""
    row = connection.execute(
        text(
            "INSERT INTO version_counter (what, value) VALUES (:what, 1) "
            "ON CONFLICT (what) DO UPDATE SET value = value + 1 RETURNING value"
        ),
        {"what": what},
    ).one()
    return int(row.value)


def served_metadata(connection: Connection, file_name: str) -> bytes | None:
    """Return the metadata file that a TUF client asks for by name, or None; only what is published is served."""
    stem = file_name.removesuffix(".json")
    if stem == file_name:
        return None
    if stem == "timestamp":
        return _newest(connection).get("timestamp")
    number, _, role = stem.partition(".")
    if not (number.isascii() and number.isdecimal()) or len(number) > 9:
        return None
    table = repository_root if role == "root" else image_metadata
    where = repository_root.c.repository == "image" if role == "root" else image_metadata.c.role == role
    row = connection.execute(select(table.c.content).where(where, table.c.version == int(number))).first()
    return None if row is None else bytes(row.content)


def director_root(connection: Connection, version: int) -> bytes | None:
    """Return a version of the director's root metadata, or None."""
    row = connection.execute(
        select(repository_root.c.content).where(
            repository_root.c.repository == "director", repository_root.c.version == version
        )
    ).first()
    return None if row is None else bytes(row.content)


def newest_root(connection: Connection, repository: str) -> bytes:
    """Return the newest root metadata of a repository."""
    return bytes(
        connection.execute(
            select(repository_root.c.content)
            .where(repository_root.c.repository == repository)
            .order_by(repository_root.c.version.desc())
            .limit(1)
        ).scalar_one()
    )


def _is_complete(current: Mapping[str, bytes]) -> bool:
    """Tell whether the newest snapshot lists the newest version of every role, and the timestamp points at it."""
    if not all(role in current for role in _ONLINE):
        return False
    snapshot = Metadata[Snapshot].from_bytes(current["snapshot"]).signed
    listed = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
    signed = {role: read_targets(data, role).signed.version for role, data in current.items() if role not in _ONLINE}
    timestamp = Metadata[Timestamp].from_bytes(current["timestamp"]).signed
    return listed == signed and timestamp.snapshot_meta.version == snapshot.version


def _expires_at(timestamp: bytes) -> float:
    return Metadata[Timestamp].from_bytes(timestamp).signed.expires.timestamp()


def _newest(connection: Connection) -> dict[str, bytes]:
    rows = connection.exec_driver_sql(
        "SELECT role, content FROM image_metadata m WHERE version = "
        "(SELECT max(version) FROM image_metadata WHERE role = m.role)"
    )
    return {row.role: bytes(row.content) for row in rows}


def _check_next(role: str, current: bytes | None, data: bytes) -> None:
    version = read_targets(data, f"the metadata of '{role}'").signed.version
    expected = 1 if current is None else read_targets(current, role).signed.version + 1
    if version != expected:
        raise ConflictError(
            f"the metadata of '{role}' has version {version}, expected {expected}",
            hint="something else was published meanwhile: start from the newest version again",
        )


def _insert(connection: Connection, role: str, version: int, content: bytes) -> None:
    connection.execute(insert(image_metadata).values(role=role, version=version, content=content))
