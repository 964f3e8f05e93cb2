# SPDX-License-Identifier: Apache-2.0
"""What all models of a worker did: counts by bundle and role, pairs, faults, and answers that feedback may refer to.

On its way to the application an answer is only noted (:attr:`ModelCounts.notes`). Notes are settled here later, by the
thousand or when somebody wants to know: put where feedback finds them, and sorted into bins.
"""

import threading
from collections import deque
from collections.abc import Iterable

import msgspec

from device_agent.core.evidence.labels import LabelledRequests, UnpairedLabel
from device_agent.core.evidence.ledger import parted
from device_agent.core.serving import Collected, ModelFaulted
from device_agent.worker.counts import NOTES, Key, ModelCounts, Refusal, Role
from device_agent.worker.pair_counts import PairCounts
from device_agent.worker.places import Reply
from device_agent.worker.residents import Resident
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.answers import Answer

#: Answers that feedback can still refer to: a power of two.
REMEMBERED_ANSWERS = 4096
#: An answer with the seconds that it took.
Timed = tuple[Answer, float]


class Tally:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: dict[Key, ModelCounts] = {}
        self._needed: set[Key] = set()
        self._pairs = PairCounts()
        self._given: list[tuple[int, ModelCounts, int] | None] = [None] * REMEMBERED_ANSWERS
        self._faults: deque[ModelFaulted] = deque()
        self._faulted: set[str] = set()
        self._labelled = LabelledRequests()
        self._unpaired: list[UnpairedLabel] = []

    def of(self, resident: Resident, role: Role) -> ModelCounts:
        """Return where a model's answers in a role are counted."""
        return self.counts_of(resident.release, role, resident.labels, resident.classes)

    def counts_of(self, release: RunningRelease, role: Role, labels: tuple[str, ...], classes: int) -> ModelCounts:
        """Return where a release's answers in a role are counted, of a model with these classes."""
        key = release.bundle_sha256, role
        with self._lock:
            counts = self._counts.get(key)
            if counts is None:
                counts = self._counts[key] = ModelCounts(release, role, labels, classes)
            return counts

    def put_in_force(self, needed: Iterable[ModelCounts], labelled: Iterable[int] = ()) -> None:
        """Follow a new plan: what neither it nor the last one needs is forgotten once it has nothing to tell.

        ``labelled`` are requests that have their label already, as earlier workers were told.
        """
        with self._lock:
            self._labelled.note(labelled)
            self._faulted.clear()
            now = {counts.key: counts for counts in needed}
            last, self._needed = self._needed, set(now)
            for key, counts in self._counts.items():
                if key in last or not counts.silent:  # the last plan's may be about to note an answer
                    now.setdefault(key, counts)
            self._counts = now

    def settle(self, counts: ModelCounts) -> None:
        """Sort what was noted of a model, if that is much."""
        with self._lock:
            if len(counts.notes) >= NOTES:
                self._note_down(counts)
                counts.sort()

    def refused(self, counts: ModelCounts, kind: Refusal, detail: str, *, fault: bool) -> None:
        """Count a request that a model did not answer with finite numbers; with ``fault`` the model is reported."""
        with self._lock:
            counts.refused(kind)
            sha256 = counts.release.bundle_sha256
            if fault and sha256 not in self._faulted:
                self._faulted.add(sha256)
                self._faults.append(ModelFaulted(bundle_sha256=sha256, kind=kind, detail=detail[:1000]))

    def compared(self, counts: ModelCounts, *, disagreed: bool) -> None:
        """Count a paired comparison for the candidate, in whatever role it is."""
        with self._lock:
            counts.paired(disagreed=disagreed)

    def shadowed(self, counts: ModelCounts, timed: Timed) -> None:
        """Count an answer that went to nobody."""
        with self._lock:
            counts.notes.append((0, timed[0].top, timed[0].confidence, timed[1]))
            self.settle(counts)

    def paired(self, number: int, candidate: Resident, mine: Timed, previous: Timed, *, own_s: float) -> None:
        """Count the answers of a candidate (``own_s``: its time at work) and the previous model to one request."""
        with self._lock:
            self._pairs.add(number, candidate, mine, previous, own_s=own_s)

    def feedback(self, request_id: int, label: str) -> Reply:
        """Count what an earlier answer should have been; ``label`` is a class number or a label's name."""
        at = request_id % REMEMBERED_ANSWERS
        with self._lock:
            for counts in self._counts.values():
                self._note_down(counts)
            given = self._given[at]
            if given is None or given[0] != request_id:
                return Reply("unknown-request", detail=f"the request {request_id} is not known, or too long ago")
            _, counts, predicted = given
            reply = self._label(request_id, label, counts, predicted)
            if reply.status == "ok":
                self._given[at] = None
            return reply

    def late_feedback(self, request_id: int, label: str, counts: ModelCounts, predicted: int) -> Reply:
        """Count what an answer should have been that only the application remembers; replies name the release."""
        release = f"{counts.release.name} {counts.release.version}"
        with self._lock:
            if not request_id or request_id in self._labelled:
                detail = f"the request {request_id} has its label already"
                return Reply("unknown-request", release=release, detail=detail)
            if counts.class_number(str(predicted)) is None:
                return Reply("bad-input", release=release, detail=f"{predicted} is no class number of the model")
            return msgspec.structs.replace(self._label(request_id, label, counts, predicted), release=release)

    def _label(self, request_id: int, label: str, counts: ModelCounts, predicted: int) -> Reply:
        actual = counts.class_number(label)
        if actual is None:
            return Reply("bad-input", detail=f"'{label[:100]}' is no class of the model")
        self._labelled.add(request_id)
        self._counts.setdefault(counts.key, counts).labelled(actual, predicted)
        if not self._pairs.labelled(request_id, actual):
            self._unpaired.append(UnpairedLabel(request_id=request_id, actual=actual))
        return Reply("ok", request_id, predicted)

    def collect(self) -> Collected:
        """Hand over all counts since the last time."""
        with self._lock:
            self._faulted.clear()
            for counts in self._counts.values():
                self._note_down(counts)
            windows = [counts.take() for counts in self._counts.values() if not counts.silent]
            pairs, labelled = self._pairs.take(), self._labelled.take()
            unpaired, self._unpaired = tuple(self._unpaired), []
        models = tuple(part for window in windows for part in parted(window))
        return Collected(models=models, pairs=pairs, labelled=labelled, unpaired=unpaired)

    def take_faults(self) -> list[ModelFaulted]:
        """Return candidates' faults since the last call, one a candidate and collection."""
        if not self._faults:
            return []
        with self._lock:
            faults = list(self._faults)
            self._faults.clear()
            return faults

    def _note_down(self, counts: ModelCounts) -> None:
        """Put new notes where feedback finds them."""
        given = self._given
        for number, top, _, _ in counts.unread():
            at = number % REMEMBERED_ANSWERS
            known = given[at]
            if number and (known is None or known[0] < number):
                given[at] = number, counts, top
