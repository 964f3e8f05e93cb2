# SPDX-License-Identifier: Apache-2.0
"""Who is next: a stable random order of devices, the holdout, and how many devices a wave may have.

The order is a hash salted anew for each rollout, so that it is not always the same devices that go first, and a
device that joins later has its place in the order already.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence

from edgefleet.contracts.policy import WaveRule


def cohort_position(salt: str, device: str) -> str:
    """Return the sort key of a device in one rollout's order (uniform, fixed for the rollout's life)."""
    return hashlib.sha256(f"{salt}/order/{device}".encode()).hexdigest()


def cohort_order(salt: str, devices: Iterable[str]) -> list[str]:
    """Return the devices in the order in which the rollout reaches them."""
    return sorted(devices, key=lambda device: cohort_position(salt, device))


def draw_holdout(salt: str, devices: Iterable[str], percent: float) -> frozenset[str]:
    """Return the devices that stay on the release before until the last wave.

    The count is rounded down, and one device at least stays outside the holdout.
    """
    drawn = sorted(devices, key=lambda device: hashlib.sha256(f"{salt}/holdout/{device}".encode()).hexdigest())
    count = min(math.floor(len(drawn) * percent / 100.0), max(len(drawn) - 1, 0))
    return frozenset(drawn[:count])


def wave_size(covered: int, percent: float) -> int:
    """Return how many of ``covered`` devices have the release when a wave of ``percent`` is done (rounded up)."""
    return min(covered, math.ceil(covered * percent / 100.0))


def devices_to_assign(
    order: Sequence[str], *, assigned: frozenset[str], holdout: frozenset[str], size: int
) -> tuple[str, ...]:
    """Return who gets the release now, so that ``size`` devices have it, in the order's sequence."""
    waiting = [device for device in order if device not in assigned and device not in holdout]
    return tuple(waiting[: max(0, size - len(assigned))])


def cap_at(waves: Sequence[WaveRule], *, covered: int, elapsed_s: float) -> int:
    """Return the most devices that may have a release ``elapsed_s`` production seconds after its first assignment.

    Wave k may begin no sooner than the minimum times of the waves before it allow. The signer holds the rollout
    engine to this, knowing nothing else of it.
    """
    opens_s = 0.0
    cap = 0
    for wave in waves:
        if opens_s > elapsed_s:
            break
        cap = wave_size(covered, wave.percent)
        opens_s += wave.minimum_s
    return cap
