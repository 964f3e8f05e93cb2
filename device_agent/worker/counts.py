# SPDX-License-Identifier: Apache-2.0
"""Counting what one model does in one role: answers are noted at once, and sorted into bins by the thousand."""

import math
from collections import Counter
from typing import Literal

import numpy as np

from device_agent.core.ledger import confusion, sparse
from edgefleet.contracts.messages import (
    CONFIDENCE_BINS,
    LATENCY_BINS,
    LATENCY_BINS_PER_OCTAVE,
    ModelWindow,
    RunningRelease,
)

Role = Literal["active", "trial", "shadow"]
#: Answers that are noted before they are sorted into bins.
NOTES = 1024


class ModelCounts:
    """The counts of one model in one role since the last time they were taken."""

    def __init__(self, release: RunningRelease, role: Role) -> None:
        self._release = release
        self._role = role
        #: What was answered and is not sorted yet: top class, confidence, seconds.
        self.notes: list[tuple[int, float, float]] = []
        self._start()

    def _start(self) -> None:
        self.failed = self.non_finite = self.compared = self.disagreed = 0
        self._latency: Counter[int] = Counter()
        self._confidence: Counter[int] = Counter()
        self._classes: Counter[int] = Counter()
        self._labelled: Counter[tuple[int, int]] = Counter()

    def answered(self, top: int, confidence: float, seconds: float) -> None:
        """Count a finite answer."""
        self.notes.append((top, confidence, seconds))
        if len(self.notes) >= NOTES:
            self.sort()

    def refused(self, kind: Literal["non-finite", "failed"]) -> None:
        """Count a request that the model did not answer with finite numbers."""
        if kind == "failed":
            self.failed += 1
        else:
            self.non_finite += 1

    def paired(self, *, disagreed: bool) -> None:
        """Count a paired comparison."""
        self.compared += 1
        self.disagreed += disagreed

    def labelled(self, actual: int, predicted: int) -> None:
        """Count feedback for an earlier answer."""
        self._labelled[actual, predicted] += 1

    def take(self) -> ModelWindow:
        """Return the counts as the contract's window, and start again."""
        self.sort()
        window = ModelWindow(
            release=self._release,
            role=self._role,
            requests=self._classes.total() + self.failed + self.non_finite,
            failed=self.failed,
            non_finite=self.non_finite,
            compared=self.compared,
            disagreed=self.disagreed,
            latency=sparse(self._latency),
            confidence=sparse(self._confidence),
            classes=sparse(self._classes),
            labelled=confusion(self._labelled),
        )
        self._start()
        return window

    def sort(self) -> None:
        """Sort what was noted into bins: latencies by octaves of microseconds, confidences evenly over [0, 1]."""
        count = len(self.notes)
        if not count:
            return
        tops, confidences, seconds = np.array(self.notes[:count]).T
        octaves = LATENCY_BINS_PER_OCTAVE * np.log2(np.maximum(seconds * 1e6, 1.0))
        _add(self._latency, np.minimum(octaves.astype(int), LATENCY_BINS - 1))
        _add(self._confidence, np.clip((confidences * CONFIDENCE_BINS).astype(int), 0, CONFIDENCE_BINS - 1))
        _add(self._classes, tops.astype(int))
        del self.notes[:count]  # an answer may have been noted meanwhile


def latency_bin(seconds: float) -> int:
    """Return the bin of one latency."""
    return min(int(LATENCY_BINS_PER_OCTAVE * math.log2(max(seconds * 1e6, 1.0))), LATENCY_BINS - 1)


def _add(counter: Counter[int], bins: "np.typing.NDArray[np.int_]") -> None:
    for place, count in zip(*np.unique(bins, return_counts=True), strict=True):
        counter[int(place)] += int(count)
