# SPDX-License-Identifier: Apache-2.0
"""What calibration samples make of a float model, seen once, for all recipes that are tried on it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.layer_weights import read_layers
from converter.adapters.flatbuffers.patched_weights import PatchedWeights, is_modern
from converter.adapters.flatbuffers.reading import read_facts, with_modern_operator_codes, with_signature_list
from converter.adapters.flatbuffers.surgery import prune
from converter.adapters.late_import import import_late
from converter.adapters.quantizer import load_early
from converter.adapters.running.calibration import Calibrator
from converter.adapters.running.parallel import share, worker_count
from converter.adapters.samples.sets import SampleSet, canonical_order, model_inputs
from converter.core.board.checks import check_quantizable
from converter.core.graph import GraphFacts
from converter.core.numerics.conditioning import Layer
from converter.core.numerics.histograms import Histogram
from converter.core.numerics.ranges import Statistics, tensor_ranges
from converter.core.parity_choice import spread
from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import Preprocessing, TensorSpec

Array = npt.NDArray[Any]
#: How many calibration samples decide between candidates.
_JUDGES = 16
#: Inputs below this are nothing that a sensor tells: their scale would be too small for any bias.
_SMALLEST_INPUT = 1e-20
_MOST_NAMED = 3


@dataclass(frozen=True)
class Prepared:
    """A float model as the quantizer reads it: operator codes in their newer field, a list of signatures, pruned."""

    data: bytes
    facts: GraphFacts
    signature_list: bool
    rewrites: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """Calibration samples as the model takes them, in their canonical order, as often as they are asked for."""

    set: SampleSet
    order: tuple[int, ...]
    how: Preprocessing
    specs: tuple[TensorSpec, ...]

    def inputs(self, most: int | None = None) -> Iterator[list[Array]]:
        """Yield all samples, or ``most`` of them spread over the set.

        Raises:
            SampleError: one does not fit, or is not finite.
        """
        order = self.order
        if most is not None and most < len(order):
            order = tuple(order[place] for place in spread(most, len(order)))
        for number, sample in zip(order, model_inputs(self.set, order, self.how, self.specs), strict=True):
            _check_finite(self.set, number, sample)
            yield sample


@dataclass
class Memory:
    """What recipes of one observation have in common, kept from one to the next; it never changes a result.

    ``histograms`` goes by the model that was counted. ``hessians`` are those of one model under one set of ranges,
    named by ``rounded_for``; ``rounded`` has the layers rounded with them, by operator, levels, and scales for all.
    """

    histograms: dict[bytes, dict[str, Histogram]] = field(default_factory=dict)
    rounded_for: bytes = b""
    hessians: dict[int, Array] = field(default_factory=dict)
    rounded: dict[tuple[int, int, bool], tuple[Array, Array]] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """A float model, what the calibration samples made of its tensors, and its scores for some of them."""

    prepared: Prepared
    layers: tuple[Layer, ...]
    statistics: Statistics
    judges: tuple[list[Array], ...]
    scores: tuple[Array, ...]
    samples: Samples
    warnings: tuple[str, ...]
    patch: PatchedWeights = field(repr=False)
    memory: Memory = field(default_factory=Memory, repr=False, compare=False)


def prepare(model: bytes, *, pruned: bool) -> Prepared:
    """Return a float model in the form that the quantizer reads.

    Raises:
        UnsupportedModelError: its flatbuffer is damaged, or it has operators whose inner graphs cannot be reached.
    """
    smaller, rewrites = prune(model) if pruned else (model, ())
    facts = read_facts(smaller)
    check_quantizable(facts)
    if is_modern(smaller):
        return Prepared(smaller, facts, signature_list=True, rewrites=rewrites)
    modern = with_modern_operator_codes(smaller)
    listed = with_signature_list(modern)
    return Prepared(listed, facts, signature_list=listed is modern, rewrites=rewrites)


def observe(model: bytes, calibration: SampleSet, how: Preprocessing, *, pruned: bool = True) -> Observation:
    """Run all calibration samples through the float model once; recipes with the same ``prune`` can share the result.

    Raises:
        SampleError: the samples do not fit, tell nothing, or make the model answer NaN.
        UnsupportedModelError: the quantizer could not handle the model.
    """
    if not len(calibration):
        raise SampleError(f"{calibration.source} holds no samples", hint="give 50 to 500 typical inputs")
    import_late("scipy.linalg")  # nine tenths of the quantizer's import, for a way of rounding that is not used here
    load_early()
    prepared = prepare(model, pruned=pruned)
    calibrators = [Calibrator(prepared.data, prepared.facts) for _ in range(worker_count())]
    samples = Samples(calibration, tuple(canonical_order(calibration)), how, calibrators[0].input_specs)
    judging = set(spread(min(_JUDGES, len(samples.order)), len(samples.order)))
    work = ((place in judging, sample) for place, sample in enumerate(samples.inputs()))
    judged = [found for found in share(work, [_observer(calibrator) for calibrator in calibrators]) if found]
    statistics = calibrators[0].statistics(calibrators[1:])
    tensor_ranges(statistics)
    _check_inputs(prepared.facts, statistics, calibration.source)
    return Observation(
        prepared=prepared,
        layers=tuple(read_layers(prepared.data)),
        statistics=statistics,
        judges=tuple(sample for sample, _ in judged),
        scores=tuple(scores for _, scores in judged),
        samples=samples,
        warnings=_constant_tensors(statistics),
        patch=PatchedWeights(prepared.data),
    )


def _observer(calibrator: Calibrator) -> Callable[[tuple[bool, list[Array]]], tuple[list[Array], Array] | None]:
    """Return what observes one sample, and returns it with its scores where it is one of the judges."""

    def observe_one(work: tuple[bool, list[Array]]) -> tuple[list[Array], Array] | None:
        judge, sample = work
        scores = calibrator.observe(sample)
        return (sample, scores) if judge else None

    return observe_one


def _check_finite(samples: SampleSet, number: int, sample: Sequence[Array]) -> None:
    for values in sample:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise SampleError(
                f"{samples.source}: sample {number} has NaN or infinity",
                hint="leave it out, or correct what it was made from, or the preprocessing",
            )


def _check_inputs(facts: GraphFacts, statistics: Statistics, source: str) -> None:
    """Refuse samples from which no scale can be learned: all zero, or all one constant."""
    names = [facts.tensors[number].name for number in facts.inputs]
    found = [(name, statistics[name].range) for name in names if name in statistics]
    for name, (low, high) in found:
        if max(abs(low), abs(high)) < _SMALLEST_INPUT:
            raise SampleError(
                f"the calibration samples of input '{name}' are all 0, so that no scale can be made from them",
                hint="give typical inputs; check the preprocessing if these are",
            )
    if found and all(low == high for _, (low, high) in found):
        raise SampleError(
            f"{source} holds nothing but the value {found[0][1].low:g}, so that no range can be learned for "
            f"{_listed(sorted(statistics))}",
            hint="give 50 to 500 typical inputs that differ from each other",
        )


def _constant_tensors(statistics: Statistics) -> tuple[str, ...]:
    constant = sorted(name for name, found in statistics.items() if found.range.low == found.range.high)
    if not constant:
        return ()
    return (f"the calibration samples never change {_listed(constant)}: give samples that differ more",)


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    first = ", ".join(f"'{name}'" for name in names[:_MOST_NAMED])
    if len(names) == 1:
        return f"the tensor {first}"
    more = len(names) - _MOST_NAMED
    return f"the tensors {first}" + (f" and {more} more" if more > 0 else "")
