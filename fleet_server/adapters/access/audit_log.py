# SPDX-License-Identifier: Apache-2.0
"""The audit log: written in the same transaction as what it tells of."""

from sqlalchemy import desc, insert, select
from sqlalchemy.engine import Connection

from fleet_server.adapters.storage.schema import audit
from fleet_server.core.audit_chain import GENESIS, AuditEntry, entry_hash


def append_audit(
    connection: Connection, *, at: float, actor: str, action: str, subject: str, detail: str = ""
) -> AuditEntry:
    """Add an entry behind the newest one."""
    last = connection.execute(select(audit.c.number, audit.c.hash).order_by(desc(audit.c.number)).limit(1)).first()
    number, previous_hash = (last.number + 1, last.hash) if last else (1, GENESIS)
    digest = entry_hash(
        number=number, at=at, actor=actor, action=action, subject=subject, detail=detail, previous_hash=previous_hash
    )
    entry = AuditEntry(
        number=number,
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        detail=detail,
        previous_hash=previous_hash,
        hash=digest,
    )
    connection.execute(insert(audit).values({name: getattr(entry, name) for name in entry.__struct_fields__}))
    return entry


def read_audit(connection: Connection, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
    """Return entries with a number above ``after``, oldest first."""
    rows = connection.execute(select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit))
    return [AuditEntry(**row._mapping) for row in rows]
