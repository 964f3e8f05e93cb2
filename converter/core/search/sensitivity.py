# SPDX-License-Identifier: Apache-2.0
"""In which order layers should give up precision, or get it back: what each costs alone, for what it brings."""

from collections.abc import Iterable
from typing import NamedTuple


class Sensitivity(NamedTuple):
    """What one layer's other precision changes by itself: bytes saved (or spent), and distance from float added."""

    layer: str
    precision: str
    saved_bytes: int
    added_distance: float


def cheapest_first(found: Iterable[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Return the layers that save bytes, the least distance for a byte first; ties by name.

    Those that come closer to float and save bytes all the same stand first, the largest saving ahead.
    """
    saving = [one for one in found if one.saved_bytes > 0]
    return tuple(sorted(saving, key=lambda one: (_cost(one), -one.saved_bytes, one.layer)))


def most_helpful_first(found: Iterable[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Return the layers that come closer to float, the most distance for a byte first; ties by name."""
    helping = [one for one in found if one.added_distance < 0.0]
    return tuple(sorted(helping, key=lambda one: (one.added_distance / max(-one.saved_bytes, 1), one.layer)))


def _cost(one: Sensitivity) -> float:
    return max(one.added_distance, 0.0) / one.saved_bytes
