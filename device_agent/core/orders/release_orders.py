# SPDX-License-Identifier: Apache-2.0
"""What to do about a verified order of the director, given what the device has."""

from typing import Literal, NamedTuple

from device_agent.core.life.lifecycle import LIVE, PREPARING, READY
from device_agent.core.life.record import DeviceRecord, Software
from device_agent.core.life.release_set import Member, ReleaseSet, changed, same, set_of
from device_agent.core.recall import Recall
from edgefleet.contracts.messages import DeviceStatus, RunningRelease
from edgefleet.contracts.policy import DevicePolicy


class TargetFile(NamedTuple):
    """A bundle as both repositories describe it: where it lies, and what it must be."""

    path: str
    sha256: str
    size_bytes: int


class Wanted(NamedTuple):
    """One release of an order, with its file and what its approvers signed beside it."""

    release: RunningRelease
    target: TargetFile
    policy: DevicePolicy = DevicePolicy()
    compat_hash: str = ""


class SignedSettings(NamedTuple):
    """A small file of settings that both repositories list: TOML, verified."""

    name: str
    sha256: str
    text: str


class SignedSoftware(NamedTuple):
    """A wheel set of the agent's own software that both repositories list, and what it is for (``any`` fits all)."""

    release: RunningRelease
    target: TargetFile
    machine: str
    python: str


class Notice(NamedTuple):
    """Something that a check noticed and that refuses nothing, for an event of its own kind."""

    cause: str
    detail: str
    kind: Literal["clock-wrong", "update-refused"] = "clock-wrong"


class Order(NamedTuple):
    """An order that both repositories agree on: the whole set that shall run; an empty one says nothing new.

    ``recall`` is what the threshold-signed metadata forbid; ``lift`` names bundles whose quarantine ends;
    ``settings`` is a signed file of settings, ``software`` what the agent itself shall be; ``notices`` are what the
    check saw beside.
    """

    counter: int
    wanted: tuple[Wanted, ...] = ()
    recall: Recall = Recall()
    lift: tuple[str, ...] = ()
    settings: SignedSettings | None = None
    notices: tuple[Notice, ...] = ()
    software: SignedSoftware | None = None

    @property
    def members(self) -> ReleaseSet:
        """The set that shall run."""
        return set_of(
            Member(release=one.release, compat_hash=one.compat_hash, policy=one.policy) for one in self.wanted
        )

    def target_of(self, bundle_sha256: str) -> TargetFile | None:
        """Return the file of one of the wanted bundles."""
        return next((one.target for one in self.wanted if one.target.sha256 == bundle_sha256), None)


Action = Literal["nothing", "install", "withdraw", "refuse-quarantined", "refuse-recalled"]


def decide(status: DeviceStatus, record: DeviceRecord, order: Order, software: Software) -> Action:
    """Return what to do now; the same order is decided again on each tick until nothing is left to do.

    An empty order stops what is being prepared, and leaves alone what answers applications.
    """
    wanted = order.members
    if status in PREPARING:
        return "nothing" if same(wanted, record.candidate) else "withdraw"
    if status in LIVE:
        return "nothing" if not wanted or same(wanted, record.candidate) else "withdraw"
    if status not in READY or not wanted or same(wanted, record.active):
        return "nothing"
    if any(record.recall.forbids(member.release) for member in wanted):
        return "refuse-recalled"
    if any(record.quarantines(member.sha256, software) for member in changed(wanted, record.active)):
        return "refuse-quarantined"
    return "install"
