# SPDX-License-Identifier: Apache-2.0
"""What single layers' other precisions change, and from that the sets of layers that are worth a measurement.

Errors of different layers are nearly independent, so that their squares add up: a set of layers is expected to change
the squared distance from float by the sum of what each of its layers changes alone. Which sets are worth a measurement
does not depend on any budget, so that a looser budget has all the choices that a stricter one had.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: With more sets than this, those whose bytes differ by less than this part of all bytes count as one.
_MOST_SETS = 256


class Sensitivity(NamedTuple):
    """What one layer's other precision changes by itself: bytes saved (or spent), and squared distance added."""

    layer: str
    precision: str
    saved_bytes: int
    added_error: float


class LayerSet(NamedTuple):
    """Layers that change together, the bytes that they save or spend, and the squared distance that they add."""

    layers: tuple[str, ...]
    changed_bytes: int
    error: float


def sets_to_lower(found: Iterable[Sensitivity]) -> tuple[LayerSet, ...]:
    """Return sets of layers that save ever more bytes, each with the least error expected for them.

    A layer that comes closer to float by it counts as no error.
    """
    items = [LayerSet((one.layer,), one.saved_bytes, max(one.added_error, 0.0)) for one in found if one.saved_bytes > 0]
    return _front(items, more_bytes_are_better=True)


def sets_to_raise(found: Iterable[Sensitivity]) -> tuple[LayerSet, ...]:
    """Return sets of layers that come ever closer to float, each for the fewest bytes."""
    items = [
        LayerSet((one.layer,), max(-one.saved_bytes, 0), one.added_error) for one in found if one.added_error < 0.0
    ]
    return _front(items, more_bytes_are_better=False)


def _front(items: Sequence[LayerSet], *, more_bytes_are_better: bool) -> tuple[LayerSet, ...]:
    """Combine items to the sets that no other one beats in bytes and error; by bytes, without the empty one."""
    step = sum(item.changed_bytes for item in items) // _MOST_SETS + 1
    sets = [LayerSet((), 0, 0.0)]
    for item in sorted(items):
        joined = [
            LayerSet(s.layers + item.layers, s.changed_bytes + item.changed_bytes, s.error + item.error) for s in sets
        ]
        sets = _unbeaten([*sets, *joined], step, sign=-1 if more_bytes_are_better else 1)
    return tuple(sorted((one for one in sets if one.layers), key=lambda one: one.changed_bytes))


def _unbeaten(sets: Iterable[LayerSet], step: int, *, sign: int) -> list[LayerSet]:
    """Return the sets than which none has better bytes and less error; of very many those that are ``step`` apart."""
    kept: list[LayerSet] = []
    for one in sorted(sets, key=lambda one: (sign * one.changed_bytes, one.error, one.layers)):
        if not kept or one.error < kept[-1].error:
            kept.append(one)
    if len(kept) <= _MOST_SETS:
        return kept
    apart = {one.changed_bytes // step: one for one in kept[1:]}
    return [kept[0], *apart.values()]
