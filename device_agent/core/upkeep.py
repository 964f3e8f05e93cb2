# SPDX-License-Identifier: Apache-2.0
"""What a round of upkeep found, and when the next one is due."""

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.messages import EventKind


class Note(Fact, frozen=True, kw_only=True):
    """Something that the server is to hear of as an event."""

    kind: EventKind
    cause: str
    detail: str = ""


class UpkeepResult(Fact, frozen=True, kw_only=True):
    """The notes of one round; ``soon`` asks for the next one before the usual time, as after a server was away."""

    notes: tuple[Note, ...] = ()
    soon: bool = False
