# SPDX-License-Identifier: Apache-2.0
"""What may not run any more, by a signed order: single bundles, everything below a floor, or every model."""

import msgspec

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.names import Name, Sha256, Version, version_key


class Recall(Fact, frozen=True, kw_only=True):
    """All recalls in force. ``minimum`` is a floor for each name; ``stopped`` forbids every model.

    Both repositories' metadata are read for it; what it forbids is refused before it is fetched, and taken off where
    it runs.
    """

    releases: tuple[Sha256, ...] = ()
    minimum: dict[Name, Version] = msgspec.field(default_factory=dict)
    stopped: bool = False

    def forbids(self, release: RunningRelease) -> str:
        """Return why a model's release may not run, in words for an event; empty where it may."""
        return "a signed order stops every model" if self.stopped else self.strikes(release)

    def strikes(self, release: RunningRelease) -> str:
        """Return why a release of whatever kind may not run: software is no model, and may be the remedy."""
        if release.bundle_sha256 in self.releases:
            return f"{release.name} {release.version} is recalled"
        floor = self.minimum.get(release.name)
        if floor is not None and version_key(release.version) < version_key(floor):
            return f"{release.name} {release.version} is below the floor {floor}"
        return ""
