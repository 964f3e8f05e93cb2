# SPDX-License-Identifier: Apache-2.0
"""Which devices a release cannot run on, by what they observed of themselves."""

from collections.abc import Mapping
from functools import lru_cache

import msgspec
from sqlalchemy.engine import Connection

from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.fit import Needs, misfits
from edgefleet.contracts.software import ANY, is_platform

#: Of a device that never said what it is; a model may be tried there, software not.
UNKNOWN = ("it has not said what it is",)


def needs_by_profile(connection: Connection, name: str, version: str) -> dict[str, str | None]:
    """Return what a release's bundle for each profile needs, as it is stored."""
    sql = "SELECT profile, needs FROM release_bundle WHERE name = ? AND version = ?"
    return {row.profile: row.needs for row in connection.exec_driver_sql(sql, (name, version))}


def unfit_devices(connection: Connection, name: str, version: str) -> dict[str, tuple[str, ...]]:
    """Return each enrolled device that the release has a file for which cannot run on it, and why not.

    Software has files for machines, not for profiles: of several that do not fit, the one that comes nearest is named.
    """
    needs = needs_by_profile(connection, name, version)
    rows = connection.exec_driver_sql("SELECT name, profile, facts FROM device WHERE enrolled_at IS NOT NULL")
    found = {row.name: _misfits(needs, row.profile, row.facts) for row in rows}
    return {device: why for device, why in found.items() if why}


def file_for(needs: Mapping[str, str | None], profile: str, facts: str | None) -> str | None:
    """Return which of a release's files a device can run, by the profile or platform that it is for; None: none."""
    if profile in needs:
        return None if why_not(needs[profile], facts) else profile
    platforms = sorted(filter(is_platform, needs), key=lambda platform: (ANY in platform, platform))
    return next((platform for platform in platforms if facts and not why_not(needs[platform], facts)), None)


def _misfits(needs: Mapping[str, str | None], profile: str, facts: str | None) -> tuple[str, ...]:
    if profile in needs:
        return why_not(needs[profile], facts)
    found = [why_not(needed, facts) or UNKNOWN for platform, needed in needs.items() if is_platform(platform)]
    return () if file_for(needs, profile, facts) else min(found, key=len, default=())


@lru_cache(maxsize=4096)
def why_not(needs: str | None, facts: str | None) -> tuple[str, ...]:
    """Compare needs and facts as they are stored; a fleet has few kinds of boards, so most answers are known."""
    if not needs or not facts:
        return ()
    return misfits(msgspec.json.decode(needs, type=Needs), msgspec.json.decode(facts, type=HardwareFacts))
