# SPDX-License-Identifier: Apache-2.0
"""Devices: invited with a one-time token, enrolled with a key of their own, listed with what they say of themselves."""

from collections.abc import Callable

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from edgefleet.contracts.enrolment import EnrolmentRequest, HardwareFacts
from edgefleet.contracts.errors import ConflictError, NotAllowedError, NotFoundError, SettingError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.messages import State
from edgefleet.contracts.names import is_name
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.access.tokens import hash_secret, new_secret
from fleet_server.adapters.devices.check_ins import fresh_chain
from fleet_server.adapters.devices.device_certificates import is_decommissioned
from fleet_server.adapters.devices.order_store import describe, read_members
from fleet_server.adapters.keys.certificates import end_of, serial_of
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.schema import device as device_table
from fleet_server.signer.requests import SignCertificate

#: The common name of the server's certificate at the broker, on which the broker's ACL stands.
SERVER_NAME = "edgefleet-server"


class DeviceRecord(Fact, frozen=True, kw_only=True):
    """One device as the API shows it; times are Unix seconds.

    ``ordered`` is the release of its newest order, ``state`` what it last said of itself, ``last_seen`` the newest
    sign of life of any kind. ``facts_at`` says when the facts last changed, ``cloned_at`` and ``cloned_detail`` when
    and by what it was last seen that two devices share this identity.
    """

    name: str
    profile: str
    enrolled: bool
    invited_at: float
    enrolled_at: float | None
    counter: int
    ordered: str | None
    last_seen: float | None
    state: State | None
    facts: HardwareFacts | None
    facts_at: float | None = None
    certificate_ends_at: float | None = None
    renewed_at: float | None = None
    renewal_grace_until: float | None = None
    decommissioned_at: float | None = None
    cloned_at: float | None = None
    cloned_detail: str | None = None


_LIST = """
SELECT d.*, coalesce(a.counter, 0) AS counter, a.members, a.name AS release_name,
       a.version AS release_version, a.bundle_sha256,
       i.facts_at, i.certificate_ends_at, i.renewed_at, i.grace_until, i.decommissioned_at, i.cloned_at,
       i.cloned_detail, s.body AS state_body, s.received_at AS state_at, p.polled_at,
       (SELECT max(received_at) FROM message m WHERE m.device = d.name) AS message_at
FROM device d
LEFT JOIN device_identity i ON i.device = d.name
LEFT JOIN assignment a ON a.device = d.name AND a.counter = (SELECT max(counter) FROM assignment WHERE device = d.name)
LEFT JOIN device_state s ON s.device = d.name
LEFT JOIN device_poll p ON p.device = d.name
"""
_ORDER_COLUMNS = ("members", "release_name", "release_version", "bundle_sha256")


class DeviceRegister:
    """Invites and enrols devices."""

    def __init__(self, database: Database, signer: SignerProcess, clock: Callable[[], float]) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock

    def invite(self, name: str, profile: str, actor: str) -> str:
        """Make a device known, and return the secret with which it may enrol once.

        A known device may be invited again with the same profile, as after a reflash.

        Raises:
            SettingError: a name that is not one.
            ConflictError: the device exists with another profile, or was decommissioned.
        """
        for what, value in (("device", name), ("profile", profile)):
            if not is_name(value):
                raise SettingError(
                    f"'{value}' cannot name a {what}", hint="use lowercase letters, digits, '-' and '_' (63 at most)"
                )
        if name == SERVER_NAME:
            raise SettingError(f"'{name}' is the server's own name at the broker", hint="choose another name")
        secret, now = new_secret(), self._clock()
        with self._database.write() as connection:
            known = connection.execute(select(device_table).where(device_table.c.name == name)).first()
            if known is None:
                row = {"name": name, "profile": profile, "token_sha256": hash_secret(secret), "invited_at": now}
                connection.execute(insert(device_table).values(row))
            elif is_decommissioned(connection, name):
                raise ConflictError(f"device '{name}' was decommissioned", hint="choose another name")
            elif known.profile != profile:
                raise ConflictError(
                    f"device '{name}' has profile '{known.profile}', got '{profile}'", hint="choose another name"
                )
            else:
                changed = update(device_table).where(device_table.c.name == name)
                connection.execute(changed.values(token_sha256=hash_secret(secret), invited_at=now))
            append_audit(connection, at=now, actor=actor, action="device-invited", subject=name, detail=profile)
        return secret

    def enrol(self, request: EnrolmentRequest) -> str:
        """Return a device certificate for a right and unused token.

        Raises:
            NotAllowedError: the token is wrong or used, or the certificate request is for another device.
        """
        token = hash_secret(request.token)
        with self._database.read() as connection:
            row = connection.execute(
                select(device_table).where(device_table.c.name == request.device, device_table.c.token_sha256 == token)
            ).first()
        if row is None:
            raise _wrong_token(request.device)
        certificate = self._signer.sign_certificate(
            SignCertificate(device=request.device, profile=row.profile, csr_pem=request.csr_pem)
        )
        self._store_enrolment(request, token, certificate)
        return certificate

    def _store_enrolment(self, request: EnrolmentRequest, token: str, certificate: str) -> None:
        now = self._clock()
        with self._database.write() as connection:
            used = connection.execute(
                update(device_table)
                .where(device_table.c.name == request.device, device_table.c.token_sha256 == token)
                .values(
                    token_sha256=None,
                    certificate_serial=serial_of(certificate.encode()),
                    facts=msgspec.json.encode(request.facts).decode(),
                    enrolled_at=now,
                )
            )
            if used.rowcount != 1:  # another request with the same token was quicker
                raise _wrong_token(request.device)
            name = request.device
            fresh_chain(connection, name, ends_at=end_of(certificate.encode()))
            append_audit(connection, at=now, actor=f"device {name}", action="device-enrolled", subject=name)


def list_devices(connection: Connection) -> list[DeviceRecord]:
    """Return all devices by name."""
    return [_record(row) for row in connection.exec_driver_sql(_LIST + " ORDER BY d.name")]


def find_device(connection: Connection, name: str) -> DeviceRecord:
    """Return one device.

    Raises:
        NotFoundError: it is not known.
    """
    row = connection.exec_driver_sql(_LIST + " WHERE d.name = ?", (name,)).first()
    if row is None:
        raise NotFoundError(f"device '{name}' is not known", hint="see: edgefleet devices list")
    return _record(row)


def _record(row: object) -> DeviceRecord:
    values = row._mapping  # type: ignore[attr-defined]  # a SQLAlchemy row
    seen = [at for at in (values["state_at"], values["polled_at"], values["message_at"]) if at is not None]
    state, facts = values["state_body"], values["facts"]
    return DeviceRecord(
        name=values["name"],
        profile=values["profile"],
        enrolled=values["enrolled_at"] is not None,
        invited_at=values["invited_at"],
        enrolled_at=values["enrolled_at"],
        counter=values["counter"],
        ordered=describe(read_members(*(values[column] for column in _ORDER_COLUMNS))),
        last_seen=max(seen) if seen else None,
        state=msgspec.json.decode(state, type=State) if state else None,
        facts=msgspec.json.decode(facts, type=HardwareFacts) if facts else None,
        facts_at=values["facts_at"],
        certificate_ends_at=values["certificate_ends_at"],
        renewed_at=values["renewed_at"],
        renewal_grace_until=values["grace_until"],
        decommissioned_at=values["decommissioned_at"],
        cloned_at=values["cloned_at"],
        cloned_detail=values["cloned_detail"],
    )


def _wrong_token(name: str) -> NotAllowedError:
    return NotAllowedError(
        f"the enrolment token of device '{name}' is wrong or used",
        hint="make a new ticket: edgefleet devices invite NAME --profile P --output ticket.json",
    )
