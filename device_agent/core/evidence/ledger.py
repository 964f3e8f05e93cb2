# SPDX-License-Identifier: Apache-2.0
"""Adding up windows of the same model and role, so that several short windows leave as one."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from edgefleet.contracts.messages import Confusion, ModelWindow, SparseCounts

#: Entries of a column in one message: three columns of large numbers stay well below a message's limit.
PART_ENTRIES = 1000


def merge(windows: Iterable[ModelWindow]) -> tuple[ModelWindow, ...]:
    """Return one window for each (bundle, role), in the order of first sight."""
    sums: dict[tuple[str, str], ModelWindow] = {}
    for window in windows:
        key = (window.release.bundle_sha256, window.role)
        sums[key] = add(sums[key], window) if key in sums else window
    return tuple(sums.values())


def add(a: ModelWindow, b: ModelWindow) -> ModelWindow:
    """Add two windows of one model and role."""
    return msgspec.structs.replace(
        a,
        requests=a.requests + b.requests,
        failed=a.failed + b.failed,
        non_finite=a.non_finite + b.non_finite,
        compared=a.compared + b.compared,
        disagreed=a.disagreed + b.disagreed,
        latency=add_sparse(a.latency, b.latency),
        confidence=add_sparse(a.confidence, b.confidence),
        classes=add_sparse(a.classes, b.classes),
        labelled=_add_confusion(a.labelled, b.labelled),
    )


def parted(window: ModelWindow, limit: int = PART_ENTRIES) -> tuple[ModelWindow, ...]:
    """Cut a window whose columns are long into several that add up to it; the first carries the plain counts."""
    parts = [
        ModelWindow(
            release=window.release,
            role=window.role,
            latency=_cut_sparse(window.latency, start, limit),
            confidence=_cut_sparse(window.confidence, start, limit),
            classes=_cut_sparse(window.classes, start, limit),
            labelled=_cut_confusion(window.labelled, start, limit),
        )
        for start in range(0, max(1, len(window.classes.bins), len(window.labelled.counts)), limit)
    ]
    plain = {name: getattr(window, name) for name in ("requests", "failed", "non_finite", "compared", "disagreed")}
    return (msgspec.structs.replace(parts[0], **plain), *parts[1:])


def _cut_sparse(column: SparseCounts, start: int, limit: int) -> SparseCounts:
    return SparseCounts(bins=column.bins[start : start + limit], counts=column.counts[start : start + limit])


def _cut_confusion(labelled: Confusion, start: int, limit: int) -> Confusion:
    span = slice(start, start + limit)
    return Confusion(actual=labelled.actual[span], predicted=labelled.predicted[span], counts=labelled.counts[span])


def sparse(counts: Counter[int]) -> SparseCounts:
    """Turn counted bins into two columns, sorted by bin."""
    items = sorted(item for item in counts.items() if item[1])
    return SparseCounts(bins=tuple(b for b, _ in items), counts=tuple(n for _, n in items))


def confusion(counts: Counter[tuple[int, int]]) -> Confusion:
    """Turn counted (actual, predicted) pairs into three columns, sorted."""
    items = sorted(item for item in counts.items() if item[1])
    return Confusion(
        actual=tuple(pair[0] for pair, _ in items),
        predicted=tuple(pair[1] for pair, _ in items),
        counts=tuple(n for _, n in items),
    )


def add_sparse(a: SparseCounts, b: SparseCounts) -> SparseCounts:
    """Add two histograms."""
    if not b.bins:
        return a
    total = Counter(dict(zip(a.bins, a.counts, strict=True)))
    total.update(dict(zip(b.bins, b.counts, strict=True)))
    return sparse(total)


def _add_confusion(a: Confusion, b: Confusion) -> Confusion:
    if not b.counts:
        return a
    total = Counter(_pairs(a))
    total.update(_pairs(b))
    return confusion(total)


def _pairs(labelled: Confusion) -> dict[tuple[int, int], int]:
    return dict(zip(zip(labelled.actual, labelled.predicted, strict=True), labelled.counts, strict=True))
