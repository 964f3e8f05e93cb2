# SPDX-License-Identifier: Apache-2.0
"""Which requests have their label already, so that none counts twice, and what labels said of each release."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from device_agent.core.evidence.class_scores import ClassCounts, accuracy, counted, labels, macro, scores
from device_agent.core.evidence.pairs import Pairs, RequestId, add_pairs, labelled_pair
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import ModelWindow, RunningRelease
from edgefleet.contracts.names import Sha256

#: Releases of which the outcome of labels is remembered.
REMEMBERED_RELEASES = 8
#: So many labels are remembered, by the requests that they were for, the newest.
REMEMBERED_LABELS = 4096


class UnpairedLabel(Fact, frozen=True, kw_only=True):
    """The right class of a request of which the worker does not know what both models said."""

    request_id: RequestId
    actual: Natural


class LabelMemory(Fact, frozen=True, kw_only=True):
    """What outlives a worker and the agent: the requests that have their label, the oldest first.

    ``scores`` are the labels' outcome for the releases that were labelled last, class by class.
    """

    labelled: tuple[RequestId, ...] = ()
    scores: dict[Sha256, dict[Natural, ClassCounts]] = msgspec.field(default_factory=dict)


def outcome(
    known: Mapping[str, Mapping[int, ClassCounts]], windows: Iterable[ModelWindow]
) -> dict[str, dict[int, ClassCounts]]:
    """Return what labels said of the releases that were labelled last, with the labels of more windows."""
    total = {sha256: dict(by_class) for sha256, by_class in known.items()}
    for window in windows:
        if window.labelled.counts:
            sha256 = window.release.bundle_sha256
            total[sha256] = counted(total.pop(sha256, {}), window.labelled)
    return dict(list(total.items())[-REMEMBERED_RELEASES:])


class LabelledRequests:
    """The requests that were labelled last; :meth:`take` tells which of them were since it was called before."""

    def __init__(self, known: Iterable[int] = ()) -> None:
        self._order: deque[int] = deque()
        self._known: set[int] = set()
        self._new: list[int] = []
        self.note(known)

    def __contains__(self, request_id: int) -> bool:
        """Tell whether a request is known to have its label."""
        return request_id in self._known

    def __iter__(self) -> Iterator[int]:
        """Iterate over the requests, the oldest label first."""
        return iter(self._order)

    def add(self, request_id: int) -> None:
        """Note a label that was given here."""
        self.note((request_id,))
        self._new.append(request_id)

    def note(self, request_ids: Iterable[int]) -> None:
        """Note labels that were given before."""
        for request_id in request_ids:
            if request_id not in self._known:
                self._known.add(request_id)
                self._order.append(request_id)
        while len(self._order) > REMEMBERED_LABELS:
            self._known.discard(self._order.popleft())

    def take(self) -> tuple[int, ...]:
        """Return the labels that were given here since the last call."""
        taken, self._new = tuple(self._new), []
        return taken


def late_pairs(pairs: Pairs, labels: Iterable[UnpairedLabel]) -> Pairs:
    """Return the pairs with labels on them that came after the worker had forgotten what both models said."""
    waiting = {number: said for number, *said in pairs.unlabelled.rows}
    for label in labels:
        if label.request_id in waiting:
            pairs = add_pairs(pairs, labelled_pair(label.actual, *waiting.pop(label.request_id)))
    return pairs


def scored_releases(memory: LabelMemory, releases: Iterable[RunningRelease]) -> list[dict[str, object]]:
    """Return what labels say of some releases, for a reader; undefined scores are None."""
    return [
        {
            **msgspec.to_builtins(release),
            "labels": labels(by_class),
            "accuracy": accuracy(by_class),
            "macro": macro(by_class)._asdict(),
            "classes": {
                str(place): {**msgspec.structs.asdict(counts), **scores(counts)._asdict()}
                for place, counts in sorted(by_class.items())
            },
        }
        for release in dict.fromkeys(releases)
        if (by_class := memory.scores.get(release.bundle_sha256))
    ]
