# SPDX-License-Identifier: Apache-2.0
"""The audit log's chain: each entry's hash covers the one before it, so that nothing can be taken out unseen."""

from collections.abc import Iterable

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.manifest import Fact

GENESIS = "0" * 64


class AuditEntry(Fact, frozen=True, kw_only=True):
    """Who did what, and when (Unix seconds); ``detail`` is one sentence."""

    number: int
    at: float
    actor: str
    action: str
    subject: str
    detail: str
    previous_hash: str
    hash: str


def entry_hash(
    *, number: int, at: float, actor: str, action: str, subject: str, detail: str, previous_hash: str
) -> str:
    """Return the SHA-256 over an entry's fields and the hash before it."""
    return sha256_hex(canonical_json([number, at, actor, action, subject, detail, previous_hash]))


def first_broken(entries: Iterable[AuditEntry]) -> int | None:
    """Return the number of the first entry that does not continue the chain, or None."""
    previous, expected = GENESIS, 1
    for entry in entries:
        own = entry_hash(
            number=entry.number,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
            previous_hash=entry.previous_hash,
        )
        if entry.number != expected or entry.previous_hash != previous or entry.hash != own:
            return entry.number
        previous, expected = entry.hash, expected + 1
    return None
