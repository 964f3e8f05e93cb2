# SPDX-License-Identifier: Apache-2.0
"""Check-ins: the facts that a device observed of its board, and the chain of tokens that a copied identity forks.

A token is its number and a code over it by a secret of the device's enrolment, so that none can be guessed and none
need be kept. The chain is one row, written once a check-in.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable

import msgspec
from sqlalchemy import text
from sqlalchemy.engine import Connection

from edgefleet.contracts.enrolment import CheckIn, CheckInAnswer, HardwareFacts
from edgefleet.contracts.software import ORDER_KIND
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.devices.device_certificates import identity_row, set_identity
from fleet_server.adapters.devices.order_store import withdraw_software
from fleet_server.adapters.storage.database import Database
from fleet_server.core.devices.instance_chain import InstanceChain, present

_CODE_DIGITS = 32
_ROW = """
SELECT i.instance_secret, i.instance_head, i.instance_forsaken, i.instance_attempt, i.cloned_at, i.facts_at
FROM device_identity i WHERE i.device = :device
"""
_Ranges = tuple[tuple[int, int], ...]


class CheckIns:
    """Takes check-ins of devices whose certificate was looked at already."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def take(self, device: str, said: CheckIn) -> CheckInAnswer:
        """Return the next token; note what is new."""
        with self._database.write() as connection:
            identity_row(connection, device)
            row = connection.execute(text(_ROW), {"device": device}).one()
            secret = row.instance_secret or secrets.token_hex(32)
            if said.facts is not None:
                self._note_facts(connection, device, said.facts)
            wanted = said.facts is None and row.facts_at is None
            if said.attempt and said.attempt == row.instance_attempt:  # the same request came twice
                return CheckInAnswer(instance=_token(secret, device, row.instance_head), facts_wanted=wanted)
            number = _number(secret, device, said.instance)
            before = InstanceChain(row.instance_head, msgspec.json.decode(row.instance_forsaken, type=_Ranges))
            chain, finding = present(before, number)
            set_identity(
                connection,
                device,
                instance_secret=secret,
                instance_head=chain.head,
                instance_forsaken=msgspec.json.encode(chain.forsaken).decode(),
                instance_attempt=said.attempt,
            )
            if finding == "forked":
                self._note_clone(connection, device, number, before.head, told=row.cloned_at is not None)
        return CheckInAnswer(instance=_token(secret, device, chain.head), facts_wanted=wanted)

    def _note_facts(self, connection: Connection, device: str, facts: HardwareFacts) -> None:
        connection.execute(
            text("UPDATE device SET facts = :facts WHERE name = :device"),
            {"device": device, "facts": msgspec.json.encode(facts).decode()},
        )
        set_identity(connection, device, facts_at=self._clock())
        if ORDER_KIND not in facts.order_kinds:  # an older agent took over: it refuses whole orders that name software
            withdraw_software(connection, device, self._clock())

    def _note_clone(self, connection: Connection, device: str, number: int, head: int, *, told: bool) -> None:
        """Keep that two devices share an identity; the log hears of it once."""
        now = self._clock()
        detail = (
            f"check-in {number} was continued by another holder up to {head}: "
            "two devices, or two copies of one memory card, use this identity in turn"
        )
        set_identity(connection, device, cloned_at=now, cloned_detail=detail)
        if not told:
            append_audit(connection, at=now, actor="server", action="identity-cloned", subject=device, detail=detail)


def fresh_chain(connection: Connection, device: str, *, ends_at: float) -> None:
    """Start over with a new enrolment, whose certificate lapses at ``ends_at``: what was before is another identity."""
    set_identity(
        connection,
        device,
        certificate_ends_at=ends_at,
        pending_serial=None,
        pending_certificate=None,
        pending_key_sha256=None,
        renewed_at=None,
        grace_until=None,
        facts_at=None,
        instance_secret=secrets.token_hex(32),
        instance_head=0,
        instance_forsaken="[]",
        instance_attempt="",
        cloned_at=None,
        cloned_detail=None,
    )


def _token(secret: str, device: str, number: int) -> str:
    return f"{number}.{_code(secret, device, number)}"


def _number(secret: str, device: str, token: str) -> int:
    """Return a token's number; 0 for none, and for one that this enrolment never got."""
    text_, _, code = token.partition(".")
    number = int(text_) if text_.isascii() and text_.isdecimal() and len(text_) < 16 else 0
    return number if hmac.compare_digest(code.encode(), _code(secret, device, number).encode()) else 0


def _code(secret: str, device: str, number: int) -> str:
    said = f"{device}.{number}".encode()
    return hmac.new(bytes.fromhex(secret), said, hashlib.sha256).hexdigest()[:_CODE_DIGITS]
