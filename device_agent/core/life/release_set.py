# SPDX-License-Identifier: Apache-2.0
"""What a device runs: a set of releases, one a model name, which changes, is tried and goes back as one."""

from collections.abc import Iterable

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.policy import DevicePolicy


class Member(Fact, frozen=True, kw_only=True):
    """One release of a set, with what its signed order said of it."""

    release: RunningRelease
    compat_hash: str = ""
    policy: DevicePolicy = DevicePolicy()

    @property
    def sha256(self) -> str:
        """The bundle's hash, by which members are told apart."""
        return self.release.bundle_sha256


#: Sorted by name, one release a name; an empty one is "nothing".
ReleaseSet = tuple[Member, ...]


def set_of(members: Iterable[Member]) -> ReleaseSet:
    """Return members as a set: sorted, the last one of each name."""
    by_name = {member.release.name: member for member in members}
    return tuple(by_name[name] for name in sorted(by_name))


def hashes(members: ReleaseSet) -> frozenset[str]:
    """Return the hashes of a set's bundles: two sets with the same ones are the same."""
    return frozenset(member.sha256 for member in members)


def same(a: ReleaseSet, b: ReleaseSet) -> bool:
    """Tell whether two sets hold the same bundles."""
    return hashes(a) == hashes(b)


def changed(wanted: ReleaseSet, against: ReleaseSet) -> ReleaseSet:
    """Return the members of ``wanted`` that ``against`` does not run: those that have to be tried."""
    known = hashes(against)
    return tuple(member for member in wanted if member.sha256 not in known)


def first_release(members: ReleaseSet) -> RunningRelease | None:
    """Return the release of the first name, None for an empty set."""
    return members[0].release if members else None
