# SPDX-License-Identifier: Apache-2.0
"""How long an order that both repositories agreed on may stand without another check of everything.

A check asks for two files a repository that tell of news: the timestamp, which names all other metadata by version, and
the next root. Where the timestamp still has the bytes that were verified, and there is no next root, a check comes to
what it came to before, unless time has passed that changes the verdict. Bytes that did not change prove nothing new:
what has been verified expires by the same clock as ever, and then everything is checked again.
"""

from device_agent.core.orders.clock_judgement import behind, believed
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Sha256

#: Everything is checked again so often, whatever the server says: a check also learns what time it is at least.
CHECK_ANYWAY_S = 21_600.0


class Watched(Fact, frozen=True, kw_only=True):
    """A file of the server, with its SHA-256, or None for one that must not be there."""

    path: str
    sha256: Sha256 | None


class Agreement(Fact, frozen=True, kw_only=True):
    """What must not change for an order to stand: files, and time.

    ``until`` is when the first of the verified metadata expires or something must be asked again, ``bound`` a time that
    has passed for certain (both Unix seconds).
    """

    watched: tuple[Watched, ...]
    until: float
    bound: float = 0.0


def may_stand(agreement: Agreement, *, wall: float, age_s: float) -> bool:
    """Tell whether a look at the watched files is enough at a time by the clock, ``age_s`` after the whole check."""
    if age_s >= CHECK_ANYWAY_S or behind(wall, agreement.bound):
        return False
    return believed(wall, agreement.bound) < agreement.until
