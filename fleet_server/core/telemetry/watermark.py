# SPDX-License-Identifier: Apache-2.0
"""The watermark of one outbox: the highest sequence up to which nothing is missing."""

from collections.abc import Iterable


def advance(mark: int, stored: Iterable[int], gaps: Iterable[tuple[int, int]] = ()) -> int:
    """Return the new watermark.

    ``stored`` are sequences above ``mark`` that are on disk; ``gaps`` are ranges (first, last, both included) that
    the device had to evict, so that nobody waits for them.
    """
    spans = sorted([(sequence, sequence) for sequence in stored] + list(gaps))
    for first, last in spans:
        if first > mark + 1:
            break
        mark = max(mark, last)
    return mark
