# SPDX-License-Identifier: Apache-2.0
"""Which certificate speaks for a device: the current one, until the next one that it asked for is first used.

So an answer that was lost costs nothing: the device still has a certificate that holds, asks again with the same key,
and gets the same certificate. A certificate that its successor has replaced never speaks for the device again.
"""

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Connection

from edgefleet.contracts.enrolment import SignedRenewal
from edgefleet.contracts.errors import (
    CertificateRetiredError,
    DeviceDecommissionedError,
    NotAllowedError,
    NotFoundError,
    SettingError,
)
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.devices.renewal_proof import ProvedRenewal, read_proof
from fleet_server.adapters.keys.certificates import end_of, serial_of
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.storage.database import Database

#: Longest grace that may be given at once: a device that is away for longer is enrolled again.
GRACE_LIMIT_DAYS = 3650.0
_DAY_S = 86400.0

_KNOWN = """
SELECT d.certificate_serial AS serial, i.pending_serial, i.pending_certificate, i.pending_key_sha256,
       i.decommissioned_at
FROM device d LEFT JOIN device_identity i ON i.device = d.name
WHERE d.name = :device
"""


def identity_row(connection: Connection, device: str) -> None:
    """Make sure that a device has its row."""
    connection.execute(
        text(
            "INSERT OR IGNORE INTO device_identity (device, instance_head, instance_forsaken, instance_attempt) "
            "VALUES (:device, 0, '[]', '')"
        ),
        {"device": device},
    )


def set_identity(connection: Connection, device: str, **values: object) -> None:
    """Change columns of a device's row, which is made if there is none."""
    identity_row(connection, device)
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    connection.execute(
        text(f"UPDATE device_identity SET {assignments} WHERE device = :device"),  # noqa: S608  names of columns, from here
        values | {"device": device},
    )


def is_decommissioned(connection: Connection, device: str) -> bool:
    """Tell whether a device was taken out of the fleet for good."""
    sql = text("SELECT decommissioned_at FROM device_identity WHERE device = :device")
    return connection.execute(sql, {"device": device}).scalar() is not None


class _Known(NamedTuple):
    """The certificate that waits for its first use, and the key that it is for; empty where there is none."""

    pending_certificate: str
    pending_key_sha256: str


class DeviceCertificates:
    """Renewals, graces, and the end of a device."""

    def __init__(
        self,
        database: Database,
        signer: SignerProcess,
        clock: Callable[[], float],
        *,
        tenant: str,
        authority_pem: bytes,
    ) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._tenant = tenant
        self._authority_pem = authority_pem

    def is_current(self, device: str, serial: str) -> bool:
        """Tell whether a certificate speaks for a device; its first use makes it the only one that does."""
        sql = "SELECT 1 FROM device WHERE name = ? AND certificate_serial = ?"
        if self._database.fetch_one(sql, (device, serial)) is not None:
            return True
        pending = "SELECT 1 FROM device_identity WHERE device = ? AND pending_serial = ?"
        if self._database.fetch_one(pending, (device, serial)) is None:
            return False
        with self._database.write() as connection:
            return self._promote(connection, device, serial)

    def renew(self, proof: SignedRenewal) -> str:
        """Return the next certificate of the device that proves itself, as PEM.

        Raises:
            RefusedError: the request is malformed.
            PossessionError: it proves nothing.
            CertificateRetiredError: a newer certificate of this device is in use.
            CertificateLapsedError: the certificate lapsed, and there is no grace, or it is over.
            DeviceDecommissionedError: the device is out of the fleet.
            NotAllowedError: the device is not enrolled.
        """
        wanted = read_proof(proof, tenant=self._tenant, authority_pem=self._authority_pem)
        with self._database.write() as connection:
            known = self._known(connection, wanted)
        if known.pending_key_sha256 == wanted.key_sha256 and self._clock() < end_of(known.pending_certificate.encode()):
            return known.pending_certificate
        certificate = self._signer.renew_certificate(proof)
        with self._database.write() as connection:
            self._known(connection, wanted)  # another request may have been quicker
            set_identity(
                connection,
                wanted.device,
                pending_serial=serial_of(certificate.encode()),
                pending_certificate=certificate,
                pending_key_sha256=wanted.key_sha256,
                grace_until=None,
            )
            self._audit(connection, f"device {wanted.device}", "device-renewed", wanted.device)
        return certificate

    def give_grace(self, device: str, days: float, actor: str) -> float:
        """Let a device renew a lapsed certificate for so long from now, and return until when (Unix seconds).

        It counts once the director has signed it into the device's order.

        Raises:
            SettingError: not a sensible number of days.
            NotFoundError, DeviceDecommissionedError: there is no such device any more.
        """
        if not 0.0 <= days <= GRACE_LIMIT_DAYS:
            raise SettingError(f"a grace of {days:g} days is none", hint=f"give 0 to {GRACE_LIMIT_DAYS:g} days")
        until = int(self._clock() + days * _DAY_S)
        with self._database.write() as connection:
            self._find(connection, device)
            set_identity(connection, device, grace_until=until)
            self._audit(connection, actor, "renewal-grace-given", device, f"{days:g} days")
        return float(until)

    def decommission(self, device: str, actor: str) -> None:
        """Take a device out of the fleet for good.

        Raises:
            NotFoundError: there is no such device.
        """
        with self._database.read() as connection:
            self._find(connection, device, even_gone=True)
        self._signer.decommission(device)
        with self._database.write() as connection:
            set_identity(
                connection,
                device,
                decommissioned_at=self._clock(),
                pending_serial=None,
                pending_certificate=None,
                pending_key_sha256=None,
                grace_until=None,
            )
            connection.execute(
                text(
                    "UPDATE device SET certificate_serial = NULL, token_sha256 = NULL, enrolled_at = NULL "
                    "WHERE name = :device"
                ),
                {"device": device},
            )
            self._audit(connection, actor, "device-decommissioned", device)

    def _known(self, connection: Connection, wanted: ProvedRenewal) -> _Known:
        row = connection.execute(text(_KNOWN), {"device": wanted.device}).first()
        if row is not None and row.decommissioned_at is not None:
            raise _gone(wanted.device)
        if row is None or row.serial is None:
            raise NotAllowedError(f"device '{wanted.device}' is not enrolled", hint="enrol the device first")
        if wanted.serial not in (row.serial, row.pending_serial):
            raise CertificateRetiredError(
                f"device '{wanted.device}' has a newer certificate than the one that it shows",
                hint="look for a copy of its memory card, or enrol the device again if its card was restored",
            )
        if wanted.serial == row.pending_serial:  # this is its first use
            self._promote(connection, wanted.device, wanted.serial)
            return _Known("", "")
        return _Known(row.pending_certificate or "", row.pending_key_sha256 or "")

    def _promote(self, connection: Connection, device: str, serial: str) -> bool:
        """Let the pending certificate follow the current one; tell whether it speaks for the device now."""
        row = connection.execute(text(_KNOWN), {"device": device}).first()
        if row is None or row.pending_serial != serial:
            return row is not None and row.serial == serial
        connection.execute(
            text("UPDATE device SET certificate_serial = :serial WHERE name = :device"),
            {"serial": serial, "device": device},
        )
        set_identity(
            connection,
            device,
            certificate_ends_at=end_of(row.pending_certificate.encode()),
            renewed_at=self._clock(),
            pending_serial=None,
            pending_certificate=None,
            pending_key_sha256=None,
        )
        return True

    def _find(self, connection: Connection, device: str, *, even_gone: bool = False) -> None:
        row = connection.execute(text(_KNOWN), {"device": device}).first()
        if row is None:
            raise NotFoundError(f"device '{device}' is not known", hint="see: edgefleet devices list")
        if row.decommissioned_at is not None and not even_gone:
            raise _gone(device)

    def _audit(self, connection: Connection, actor: str, action: str, device: str, detail: str = "") -> None:
        append_audit(connection, at=self._clock(), actor=actor, action=action, subject=device, detail=detail)


def _gone(device: str) -> DeviceDecommissionedError:
    return DeviceDecommissionedError(
        f"device '{device}' was decommissioned", hint="invite the board again under a new name"
    )
