# SPDX-License-Identifier: Apache-2.0
"""Which devices a release cannot run on, by what they observed of themselves."""

from functools import lru_cache

import msgspec
from sqlalchemy.engine import Connection

from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.fit import Needs, misfits


def needs_by_profile(connection: Connection, name: str, version: str) -> dict[str, str | None]:
    """Return what a release's bundle for each profile needs, as it is stored."""
    sql = "SELECT profile, needs FROM release_bundle WHERE name = ? AND version = ?"
    return {row.profile: row.needs for row in connection.exec_driver_sql(sql, (name, version))}


def unfit_devices(connection: Connection, name: str, version: str) -> dict[str, tuple[str, ...]]:
    """Return each enrolled device whose profile has a bundle that cannot run on it, and why not."""
    needs = needs_by_profile(connection, name, version)
    rows = connection.exec_driver_sql("SELECT name, profile, facts FROM device WHERE enrolled_at IS NOT NULL")
    found = {row.name: why_not(needs.get(row.profile), row.facts) for row in rows}
    return {device: why for device, why in found.items() if why}


@lru_cache(maxsize=4096)
def why_not(needs: str | None, facts: str | None) -> tuple[str, ...]:
    """Compare needs and facts as they are stored; a fleet has few kinds of boards, so most answers are known."""
    if not needs or not facts:
        return ()
    return misfits(msgspec.json.decode(needs, type=Needs), msgspec.json.decode(facts, type=HardwareFacts))
