# SPDX-License-Identifier: Apache-2.0
"""What two models said to the same inputs, as counts that add up: evidence for faults that no answer alone shows."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from device_agent.core.evidence.ledger import add_sparse
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import LATENCY_BINS, SparseCounts
from edgefleet.contracts.names import Sha256

#: A request's number: 64 bits, more than a JSON number holds everywhere.
RequestId = Annotated[int, msgspec.Meta(ge=0)]
#: Classes are counted in so many bins; those of a model that has more share them.
CLASS_BINS = 256
#: Pairs that a label can still be for after the worker forgot them; they lie in the device's record.
UNLABELLED_LIMIT = 512
#: The bin of :attr:`Pairs.apart` for two answers that took as long.
EVEN_BIN = LATENCY_BINS


class Side(Fact, frozen=True, kw_only=True):
    """One model's answers: classes (modulo :data:`CLASS_BINS`), confidences and latencies in the bins of telemetry."""

    classes: SparseCounts = SparseCounts()
    confidence: SparseCounts = SparseCounts()
    latency: SparseCounts = SparseCounts()

    @property
    def count(self) -> int:
        """How many answers."""
        return sum(self.classes.counts)


class Labelled(Fact, frozen=True, kw_only=True):
    """Labelled inputs that both models had answered, by who was right."""

    both: Natural = 0
    only_candidate: Natural = 0
    only_previous: Natural = 0
    neither: Natural = 0

    @property
    def count(self) -> int:
        """How many labels."""
        return self.both + self.only_candidate + self.only_previous + self.neither


class ClassPairs(Fact, frozen=True, array_like=True):
    """Labelled inputs of one class by who had it right, and those of other classes by who took them for it."""

    actual: Natural = 0
    right_both: Natural = 0
    right_candidate: Natural = 0
    right_previous: Natural = 0
    false_both: Natural = 0
    false_candidate: Natural = 0
    false_previous: Natural = 0


class Unlabelled(Fact, frozen=True, kw_only=True):
    """What both models said to the last :data:`UNLABELLED_LIMIT` requests: columns of numbers and classes."""

    numbers: tuple[RequestId, ...] = ()
    candidate: tuple[Natural, ...] = ()
    previous: tuple[Natural, ...] = ()

    @property
    def rows(self) -> tuple[tuple[int, int, int], ...]:
        """The requests, each with the class of the candidate and that of the previous model."""
        return tuple(zip(self.numbers, self.candidate, self.previous, strict=True))

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int]]) -> "Unlabelled":
        """Return the last of some rows as columns."""
        columns = tuple(zip(*tuple(rows)[-UNLABELLED_LIMIT:], strict=True)) or ((), (), ())
        return cls(numbers=columns[0], candidate=columns[1], previous=columns[2])


class Pairs(Fact, frozen=True, kw_only=True):
    """A candidate and the previous model on the same inputs.

    ``agreed`` counts, class by class, the inputs to which both gave that class. ``apart`` counts, input by input, how
    many latency bins the candidate's answer took longer than the other's, from :data:`EVEN_BIN` on. ``by_class`` are
    the labelled inputs class by class (modulo :data:`CLASS_BINS`). ``unlabelled`` is kept for labels that come when the
    worker has forgotten the answers. ``latency_budget_us`` is the candidate's, 0 where its bundle has none.
    """

    candidate: Side = Side()
    previous: Side = Side()
    agreed: SparseCounts = SparseCounts()
    apart: SparseCounts = SparseCounts()
    labelled: Labelled = Labelled()
    by_class: dict[Natural, ClassPairs] = msgspec.field(default_factory=dict)
    unlabelled: Unlabelled = Unlabelled()
    latency_budget_us: Natural = 0

    @property
    def count(self) -> int:
        """How many inputs both answered."""
        return self.candidate.count


class PairedWindow(Fact, frozen=True, kw_only=True):
    """The pairs of one candidate since the last collection."""

    bundle_sha256: Sha256
    pairs: Pairs


def add_sides(a: Side, b: Side) -> Side:
    """Add two counts of one model."""
    return Side(
        classes=add_sparse(a.classes, b.classes),
        confidence=add_sparse(a.confidence, b.confidence),
        latency=add_sparse(a.latency, b.latency),
    )


def add_pairs(a: Pairs, b: Pairs) -> Pairs:
    """Add two counts of the same pair of models."""
    counts = {name: getattr(a.labelled, name) + getattr(b.labelled, name) for name in Labelled.__struct_fields__}
    return Pairs(
        candidate=add_sides(a.candidate, b.candidate),
        previous=add_sides(a.previous, b.previous),
        agreed=add_sparse(a.agreed, b.agreed),
        apart=add_sparse(a.apart, b.apart),
        labelled=Labelled(**counts),
        by_class=_add_classes(a.by_class, b.by_class),
        unlabelled=Unlabelled.of((*a.unlabelled.rows, *b.unlabelled.rows)) if b.unlabelled.numbers else a.unlabelled,
        latency_budget_us=b.latency_budget_us or a.latency_budget_us,
    )


def labelled_pair(actual: int, candidate: int, previous: int) -> Pairs:
    """Return one labelled input, by the classes that both models had given."""
    who = {(True, True): "both", (True, False): "only_candidate", (False, True): "only_previous"}
    right = candidate == actual, previous == actual
    right_by = (right == (True, True), right == (True, False), right == (False, True))
    by_class = {actual % CLASS_BINS: ClassPairs(1, *map(int, right_by))}
    for said in {candidate, previous} - {actual}:
        mine, others = candidate == said, previous == said
        false_by = (mine and others, mine and not others, others and not mine)
        by_class = _add_classes(by_class, {said % CLASS_BINS: ClassPairs(0, 0, 0, 0, *map(int, false_by))})
    return Pairs(labelled=Labelled(**{who.get(right, "neither"): 1}), by_class=by_class)


def _add_classes(a: dict[int, ClassPairs], b: dict[int, ClassPairs]) -> dict[int, ClassPairs]:
    total = dict(a)
    for place, counts in b.items():
        before = msgspec.structs.astuple(total.get(place, ClassPairs()))
        total[place] = ClassPairs(*(x + y for x, y in zip(before, msgspec.structs.astuple(counts), strict=True)))
    return total


def binned(classes: SparseCounts) -> SparseCounts:
    """Return the counts of a telemetry window's classes in the bins of a :class:`Side`."""
    parts = (SparseCounts(bins=(place % CLASS_BINS,), counts=(count,)) for place, count in _items(classes))
    total = SparseCounts()
    for part in parts:
        total = add_sparse(total, part)
    return total


def faded(side: Side, limit: int) -> Side:
    """Halve a side's counts once they are more than ``limit``, so that it follows what changes slowly."""
    if side.count <= limit:
        return side
    return Side(classes=_halved(side.classes), confidence=_halved(side.confidence), latency=_halved(side.latency))


def _halved(counts: SparseCounts) -> SparseCounts:
    kept = [(place, count // 2) for place, count in _items(counts) if count > 1]
    return SparseCounts(bins=tuple(place for place, _ in kept), counts=tuple(count for _, count in kept))


def _items(counts: SparseCounts) -> Iterable[tuple[int, int]]:
    return zip(counts.bins, counts.counts, strict=True)
