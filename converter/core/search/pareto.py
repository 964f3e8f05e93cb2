# SPDX-License-Identifier: Apache-2.0
"""Which candidates no other one beats in everything."""

from collections.abc import Sequence


def on_front(points: Sequence[Sequence[float]]) -> tuple[bool, ...]:
    """Tell for each point whether it lies on the front, where less is better in every figure.

    A point is off it where another is no worse in all figures and better in one, or equal in all and named before.
    """
    return tuple(
        not any(_beats(other, point, earlier=rank < place) for rank, other in enumerate(points) if rank != place)
        for place, point in enumerate(points)
    )


def _beats(other: Sequence[float], point: Sequence[float], *, earlier: bool) -> bool:
    if any(theirs > ours for theirs, ours in zip(other, point, strict=True)):
        return False
    return earlier or any(theirs < ours for theirs, ours in zip(other, point, strict=True))
