# SPDX-License-Identifier: Apache-2.0
"""Quarantines that a person lifts: a device that refused a release, or went back from it, may try it once more."""

from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from edgefleet.contracts.errors import ConflictError, IncompatibleError, NotFoundError
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.devices.device_certificates import is_decommissioned
from fleet_server.adapters.devices.device_register import find_device
from fleet_server.adapters.devices.order_store import Hinted, insert_lift
from fleet_server.adapters.releases.fitness import file_for
from fleet_server.adapters.storage.database import Database


class Quarantines:
    """Lifts quarantines by an order of their own. ``hint`` is told of the device, after the commit."""

    def __init__(
        self, database: Database, clock: Callable[[], float], *, hint: Callable[[Sequence[Hinted]], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._hint = hint

    def lift(self, device: str, name: str, version: str, actor: str) -> Hinted:
        """Order a device to let a release out of its quarantine; what it is to run stays as it is ordered.

        Raises:
            NotFoundError: there is no such device or approved release.
            IncompatibleError: the release has no file that the device can run.
            ConflictError: the device was decommissioned, or says that the release is not in its quarantine.
        """
        now = self._clock()
        with self._database.write() as connection:
            found = find_device(connection, device)
            if is_decommissioned(connection, device):
                raise ConflictError(f"device '{device}' was decommissioned", hint="see: edgefleet devices list")
            sha256 = _file_of(connection, device, name, version)
            if found.state is not None and sha256 not in found.state.quarantined:
                raise ConflictError(
                    f"{name} {version} is not in the quarantine of device '{device}'",
                    hint=f"see: edgefleet devices show {device}",
                )
            hinted = Hinted(device, insert_lift(connection, device, [sha256], now=now))
            detail = f"{name} {version}"
            append_audit(connection, at=now, actor=actor, action="quarantine-lifted", subject=device, detail=detail)
        self._hint([hinted])
        return hinted


def _file_of(connection: Connection, device: str, name: str, version: str) -> str:
    """Return the hash of the file that an approved release has for a device: for its profile, or for its machine."""
    rows = connection.exec_driver_sql(
        "SELECT b.profile, b.sha256, b.needs FROM release_bundle b "
        "JOIN release r ON r.name = b.name AND r.version = b.version "
        "WHERE r.name = ? AND r.version = ? AND r.state = 'approved'",
        (name, version),
    ).fetchall()
    if not rows:
        raise NotFoundError(f"there is no approved release {name} {version}", hint="see: edgefleet releases list")
    sql = "SELECT profile, facts FROM device WHERE name = ?"
    profile, facts = connection.exec_driver_sql(sql, (device,)).one()
    chosen = file_for({row.profile: row.needs for row in rows}, profile, facts)
    if chosen is None:
        raise IncompatibleError(
            f"{name} {version} has no file that device '{device}' (profile '{profile}') can run",
            hint=f"see: edgefleet releases show {name} {version}",
        )
    return next(str(row.sha256) for row in rows if row.profile == chosen)
