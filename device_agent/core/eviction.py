# SPDX-License-Identifier: Apache-2.0
"""What an outbox lets go of when it is full or too old, so that the gaps are exact, and how old a message is."""

from collections.abc import Iterable
from typing import NamedTuple

DAY_S = 86_400.0
#: What a gap record takes in the outbox, at most.
GAP_BYTES = 256


class Span(NamedTuple):
    """Sequences from ``first`` to ``last``, both included."""

    first: int
    last: int


class Row(NamedTuple):
    """One message that waits; ``gap_first`` is set for gap records, ``low_value`` for what is evicted first."""

    sequence: int
    size_bytes: int
    gap_first: int | None
    low_value: bool


def low_value_spans(rows: Iterable[Row], free_bytes: int) -> list[Span] | None:
    """Return the oldest runs of low value that free so many bytes, their own gap records paid; None: there are not
    enough.

    A run ends at whatever stays, and at what was evicted before: a gap never names a message that may still be sent.
    """
    spans: list[Span] = []
    freed_bytes = 0
    for row in rows:
        if not row.low_value:
            continue
        if spans and spans[-1].last == row.sequence - 1:
            spans[-1] = Span(spans[-1].first, row.sequence)
        else:
            spans.append(Span(row.sequence, row.sequence))
            freed_bytes -= GAP_BYTES
        freed_bytes += row.size_bytes
        if freed_bytes >= free_bytes:
            return spans
    return None


def oldest_span(rows: Iterable[Row], free_bytes: int) -> Span | None:
    """Return the oldest messages that free so many bytes, with what the gap records among them stand for."""
    first = last = freed_bytes = 0
    for row in rows:
        if freed_bytes >= free_bytes:
            break
        first = min(first or row.sequence, row.gap_first or row.sequence)
        last = row.sequence
        freed_bytes += row.size_bytes
    return Span(first, last) if last else None


def passed_s(then: float, now: float) -> float:
    """Return how much older messages have become between two looks at a wall clock that may jump.

    A clock that goes back adds nothing, one that goes forward a day at most: a battery-less clock that finds the right
    year must not make all messages look decades old.
    """
    return min(max(now - then, 0.0), DAY_S)
