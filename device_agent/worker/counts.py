# SPDX-License-Identifier: Apache-2.0
"""Counting what one model does in one role: answers are noted at once, and sorted into bins by the thousand."""

import math
from collections import Counter
from typing import Literal

import numpy as np

from device_agent.core.evidence.ledger import confusion, sparse
from edgefleet.contracts.messages import (
    CONFIDENCE_BINS,
    LATENCY_BINS,
    LATENCY_BINS_PER_OCTAVE,
    ModelWindow,
    RunningRelease,
)

Role = Literal["active", "trial", "shadow"]
Refusal = Literal["non-finite", "failed"]
#: What answered is told apart by: the bundle's hash and the role.
Key = tuple[str, Role]
#: The request's number (0: nobody asked), the top class, the confidence, and the seconds that it took.
Note = tuple[int, int, float, float]
#: Answers that are noted before they are sorted into bins.
NOTES = 1024
_CLASS_DIGITS = 9


class ModelCounts:
    """One model in one role: what feedback needs to know of it, and its counts since they were last taken."""

    def __init__(self, release: RunningRelease, role: Role, labels: tuple[str, ...], classes: int) -> None:
        self.release = release
        self.role = role
        self.key: Key = release.bundle_sha256, role
        #: What was answered and is not sorted yet.
        self.notes: list[Note] = []
        self._read = 0
        self._labels = labels
        self._classes = classes
        self._start()

    def _start(self) -> None:
        self.failed = self.non_finite = self.compared = self.disagreed = 0
        self._latency: Counter[int] = Counter()
        self._confidence: Counter[int] = Counter()
        self._classes_given: Counter[int] = Counter()
        self._labelled: Counter[tuple[int, int]] = Counter()

    @property
    def silent(self) -> bool:
        """Tell whether there is nothing to tell."""
        refused_or_compared = self.failed or self.non_finite or self.compared
        return not (self.notes or self._classes_given or self._labelled or refused_or_compared)

    def class_number(self, label: str) -> int | None:
        """Return the class that a label names, by its name or its number; None for no class of the model."""
        if label in self._labels:
            return self._labels.index(label)
        if not (label.isascii() and label.isdigit() and len(label) <= _CLASS_DIGITS):
            return None
        return int(label) if int(label) < (len(self._labels) or self._classes) else None

    def unread(self) -> list[Note]:
        """Return the notes that were not read yet, once."""
        start, self._read = self._read, len(self.notes)
        return self.notes[start : self._read]

    def refused(self, kind: Refusal) -> None:
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
            release=self.release,
            role=self.role,
            requests=self._classes_given.total() + self.failed + self.non_finite,
            failed=self.failed,
            non_finite=self.non_finite,
            compared=self.compared,
            disagreed=self.disagreed,
            latency=sparse(self._latency),
            confidence=sparse(self._confidence),
            classes=sparse(self._classes_given),
            labelled=confusion(self._labelled),
        )
        self._start()
        return window

    def sort(self) -> None:
        """Sort what was noted and read into bins: latencies by octaves of microseconds, confidences over [0, 1]."""
        count, self._read = self._read, 0
        if not count:
            return
        _, *columns = zip(*self.notes[:count], strict=True)
        tops, confidences, seconds = (np.array(column) for column in columns)
        octaves = LATENCY_BINS_PER_OCTAVE * np.log2(np.maximum(seconds * 1e6, 1.0))
        _add(self._latency, np.minimum(octaves.astype(int), LATENCY_BINS - 1))
        _add(self._confidence, np.clip((confidences * CONFIDENCE_BINS).astype(int), 0, CONFIDENCE_BINS - 1))
        _add(self._classes_given, tops.astype(int))
        del self.notes[:count]  # an answer may have been noted meanwhile


def latency_bin(seconds: float) -> int:
    """Return the bin of one latency."""
    return min(int(LATENCY_BINS_PER_OCTAVE * math.log2(max(seconds * 1e6, 1.0))), LATENCY_BINS - 1)


def bins_apart(seconds: float, other: float) -> int:
    """Return how many bins one latency is above another; what is below a microsecond counts as one."""
    octaves = math.log2(max(seconds * 1e6, 1.0) / max(other * 1e6, 1.0))
    return min(max(round(LATENCY_BINS_PER_OCTAVE * octaves), -LATENCY_BINS), LATENCY_BINS)


def _add(counter: Counter[int], bins: "np.typing.NDArray[np.int_]") -> None:
    for place, count in zip(*np.unique(bins, return_counts=True), strict=True):
        counter[int(place)] += int(count)
