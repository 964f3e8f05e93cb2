# SPDX-License-Identifier: Apache-2.0
"""API tokens: random, shown once, stored as hashes; roles admin, approver and viewer."""

import secrets
from typing import Literal

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.manifest import Fact
from fleet_server.adapters.storage.schema import api_token

Role = Literal["admin", "approver", "viewer"]
#: Which roles include which: an admin may do all, an approver may look as well.
RANK: dict[str, int] = {"viewer": 0, "approver": 1, "admin": 2}
_PREFIX = "ef_"


class Caller(Fact, frozen=True, kw_only=True):
    """Who asks, by the token that came along."""

    name: str
    role: Role


def new_secret() -> str:
    """Return a fresh token or one-time secret (256 random bits)."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return the form in which a secret is stored (it is random, so one round of SHA-256 is enough)."""
    return sha256_hex(secret.encode())


def create_token(connection: Connection, *, name: str, role: Role, now: float, lifetime_s: float | None = None) -> str:
    """Store a new token and return its secret."""
    secret = new_secret()
    expires_at = None if lifetime_s is None else now + lifetime_s
    row = {"token_sha256": hash_secret(secret), "name": name, "role": role, "created_at": now, "expires_at": expires_at}
    connection.execute(insert(api_token).values(row))
    connection.execute(delete(api_token).where(api_token.c.expires_at < now))
    return secret


def find_caller(connection: Connection, secret: str, now: float) -> Caller | None:
    """Return whose token this is, or None if it is unknown or has expired."""
    row = connection.execute(select(api_token).where(api_token.c.token_sha256 == hash_secret(secret))).first()
    if row is None or (row.expires_at is not None and row.expires_at < now):
        return None
    return Caller(name=row.name, role=row.role)
