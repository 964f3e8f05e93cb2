# SPDX-License-Identifier: Apache-2.0
"""Counting what a candidate and the previous model answer to the same inputs, and which of both was right."""

from collections import Counter, deque

from device_agent.core.evidence.ledger import sparse
from device_agent.core.evidence.pairs import (
    CLASS_BINS,
    EVEN_BIN,
    UNLABELLED_LIMIT,
    PairedWindow,
    Pairs,
    Side,
    Unlabelled,
    add_pairs,
    labelled_pair,
)
from device_agent.worker.counts import bins_apart, latency_bin
from device_agent.worker.residents import Resident
from edgefleet.contracts.messages import CONFIDENCE_BINS
from edgefleet.runtimes.answers import Answer

#: Inputs that both answered and that feedback can still refer to: a power of two.
REMEMBERED_PAIRS = 4096


class _Tally:
    """One model's side."""

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self._confidence: Counter[int] = Counter()
        self._latency: Counter[int] = Counter()

    def add(self, answer: Answer, seconds: float) -> None:
        self._classes[answer.top % CLASS_BINS] += 1
        self._confidence[min(max(int(answer.confidence * CONFIDENCE_BINS), 0), CONFIDENCE_BINS - 1)] += 1
        self._latency[latency_bin(seconds)] += 1

    def take(self) -> Side:
        return Side(classes=sparse(self._classes), confidence=sparse(self._confidence), latency=sparse(self._latency))


class _Pair:
    """What was counted of one candidate since the last time."""

    def __init__(self, latency_budget_us: int) -> None:
        self.candidate, self.previous = _Tally(), _Tally()
        self.agreed: Counter[int] = Counter()
        self.apart: Counter[int] = Counter()
        self.labels = Pairs()
        self.unlabelled: deque[tuple[int, int, int]] = deque(maxlen=UNLABELLED_LIMIT)
        self.latency_budget_us = latency_budget_us

    def take(self) -> Pairs:
        return Pairs(
            candidate=self.candidate.take(),
            previous=self.previous.take(),
            agreed=sparse(self.agreed),
            apart=sparse(self.apart),
            labelled=self.labels.labelled,
            by_class=self.labels.by_class,
            unlabelled=Unlabelled.of(self.unlabelled),
            latency_budget_us=self.latency_budget_us,
        )


class PairCounts:
    """The pairs of all candidates since they were last taken; to be called under the engine's lock."""

    def __init__(self) -> None:
        self._pairs: dict[str, _Pair] = {}
        self._given: list[tuple[int, str, int, int] | None] = [None] * REMEMBERED_PAIRS

    def add(
        self,
        number: int,
        candidate: Resident,
        mine: tuple[Answer, float],
        previous: tuple[Answer, float],
        *,
        own_s: float,
    ) -> None:
        """Count the answers, with their seconds, of a candidate and the previous model to request ``number``.

        ``own_s`` are the candidate's seconds as they are to be compared (:mod:`device_agent.core.evidence.slowness`).
        """
        pair = self._of(candidate.sha256, candidate.model.manifest.budgets.latency_p99_us or 0)
        pair.candidate.add(*mine)
        pair.previous.add(*previous)
        pair.apart[EVEN_BIN + bins_apart(own_s, previous[1])] += 1
        top, before = mine[0].top, previous[0].top
        if top == before:
            pair.agreed[top % CLASS_BINS] += 1
        pair.unlabelled.append((number, top, before))
        self._given[number % REMEMBERED_PAIRS] = (number, candidate.sha256, top, before)

    def labelled(self, number: int, actual: int) -> bool:
        """Count what request ``number`` should have been answered; False where it is not known that both had."""
        given = self._given[number % REMEMBERED_PAIRS]
        if given is None or given[0] != number:
            return False
        self._given[number % REMEMBERED_PAIRS] = None
        _, sha256, top, before = given
        pair = self._of(sha256, 0)
        pair.labels = add_pairs(pair.labels, labelled_pair(actual, top, before))
        return True

    def take(self) -> tuple[PairedWindow, ...]:
        """Return the counts, and start again."""
        taken, self._pairs = self._pairs, {}
        return tuple(PairedWindow(bundle_sha256=sha256, pairs=pair.take()) for sha256, pair in taken.items())

    def _of(self, sha256: str, latency_budget_us: int) -> _Pair:
        return self._pairs.setdefault(sha256, _Pair(latency_budget_us))
