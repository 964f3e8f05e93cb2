# SPDX-License-Identifier: Apache-2.0
"""What to do about a verified order of the director, given what the device has."""

from typing import Literal, NamedTuple

from device_agent.core.lifecycle import LIVE, PREPARING, READY
from device_agent.core.record import DeviceRecord
from edgefleet.contracts.messages import DeviceStatus, RunningRelease
from edgefleet.contracts.policy import DevicePolicy


class TargetFile(NamedTuple):
    """A bundle as both repositories describe it: where it lies, and what it must be."""

    path: str
    sha256: str
    size_bytes: int


class Order(NamedTuple):
    """An order that both repositories agree on; without a release: nothing new."""

    counter: int
    release: RunningRelease | None = None
    target: TargetFile | None = None
    policy: DevicePolicy = DevicePolicy()
    compat_hash: str = ""


Action = Literal["nothing", "install", "withdraw", "refuse-quarantined"]


def decide(status: DeviceStatus, record: DeviceRecord, order: Order) -> Action:
    """Return what to do now; the same order is decided again on each tick until nothing is left to do.

    An empty order stops what is being prepared, and leaves alone what answers applications.
    """
    wanted = order.release.bundle_sha256 if order.release else None
    candidate = record.candidate.bundle_sha256 if record.candidate else None
    if status in PREPARING:
        return "nothing" if wanted == candidate else "withdraw"
    if status in LIVE:
        return "nothing" if wanted in (candidate, None) else "withdraw"
    if status not in READY or wanted is None:
        return "nothing"
    if record.active is not None and record.active.bundle_sha256 == wanted:
        return "nothing"
    return "refuse-quarantined" if record.quarantines(wanted) else "install"
