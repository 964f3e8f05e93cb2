# SPDX-License-Identifier: Apache-2.0
"""Remove channels that are proved to be constant, or that nobody reads; no sample decides anything here.

Bounds are carried through the graph by interval arithmetic: inputs may be anything, a clipping activation bounds what
leaves it, and a channel whose lower and upper bound are equal is constant. What a constant channel adds to its readers
goes into their biases. A channel that its readers multiply by nothing but zeros goes as well. Training with a penalty
leaves many such channels; what only *looks* constant on samples stays, as the next sample may tell otherwise.

A weight counts as zero where the taps from one input channel to one output channel sum to at most ``NEGLIGIBLE`` in
magnitude: for activations up to 10⁵ that is under 10⁻⁹ a channel, below what float32 tells beside any other summand.

Sums are exactly rounded (``math.fsum``), so that the result does not depend on a processor's order of additions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NEGLIGIBLE = 1e-14
#: What a clipping activation lets through; None stands for a function whose bounds are not followed.
Clip = tuple[float, float] | None
UNCLIPPED: Clip = (-math.inf, math.inf)
StepKind = Literal["linear", "depthwise", "sum", "pass", "barrier"]


class Window(NamedTuple):
    """Taps of a kernel that lie inside the input at some position: rows and columns, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Step:
    """One operator as this module sees it; tensors go by number.

    ``linear`` mixes channels: weights (outputs, height, width, inputs). ``depthwise`` has one slice a channel: weights
    (height, width, channels). ``sum`` adds two tensors, ``pass`` keeps channels apart (pools, reshapes, clips);
    ``pads`` tells that zeros may come in. A ``barrier`` is anything else: what it touches keeps its channels.
    ``windows`` are all that the kernel meets over the positions of the input; without padding it is one.
    """

    kind: StepKind
    sources: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: Array | None = None
    bias: Array | None = None
    clip: Clip = UNCLIPPED
    windows: tuple[Window, ...] = ()
    pads: bool = False


@dataclass(frozen=True)
class Network:
    """Steps in the order of execution, the size of each tensor's last axis, and the tensors that must stay whole."""

    steps: tuple[Step, ...]
    widths: Mapping[int, int]
    fixed: frozenset[int]


class Bounds(NamedTuple):
    """The smallest and the largest value that each channel of a tensor can have; equal where it is constant."""

    low: Array
    high: Array

    @property
    def constant(self) -> Array:
        """Tell for each channel whether it is constant."""
        return np.asarray((self.low == self.high) & np.isfinite(self.low))


@dataclass(frozen=True)
class _Group:
    """Tensors whose channels come and go together, each with the number of times it repeats them side by side."""

    channels: int
    repeats: dict[int, int]
    fixed: bool


def shrink(network: Network) -> Network:
    """Return the network without the channels that can go; the same object where none can."""
    while (smaller := _without_removable(network)) is not None:
        network = smaller
    return network


def channel_bounds(network: Network) -> dict[int, Bounds]:
    """Return the proved bounds of each tensor's channels, whatever the inputs are."""
    bounds: dict[int, Bounds] = {}
    for step in network.steps:
        for source in step.sources:
            bounds.setdefault(source, _unbounded(network.widths[source]))
        for output in step.outputs:
            bounds[output] = _step_bounds(step, [bounds[s] for s in step.sources], network.widths[output])
    return bounds


def window_ranges(size: int, taps: int, *, stride: int, dilation: int, same: bool) -> tuple[tuple[int, int], ...]:
    """Return the different ranges of taps that lie inside one axis of ``size``, as TFLite pads it."""
    reach = (taps - 1) * dilation + 1
    if not same:
        return ((0, taps),)
    positions = -(-size // stride)
    before = max((positions - 1) * stride + reach - size, 0) // 2
    ranges = set()
    for position in range(positions):
        start = position * stride - before
        inside = [tap for tap in range(taps) if 0 <= start + tap * dilation < size]
        ranges.add((inside[0], inside[-1] + 1) if inside else (0, 0))
    return tuple(sorted(ranges))


def _unbounded(width: int) -> Bounds:
    return Bounds(np.full(width, -np.inf), np.full(width, np.inf))


def _step_bounds(step: Step, sources: Sequence[Bounds], width: int) -> Bounds:
    if step.kind == "barrier" or step.clip is None:
        return _unbounded(width)
    if step.kind == "linear":
        found = _linear_bounds(step, sources[0])
    elif step.kind == "depthwise":
        found = _depthwise_bounds(step, sources[0])
    elif step.kind == "sum":
        found = Bounds(sources[0].low + sources[1].low, sources[0].high + sources[1].high)
    else:
        repeats = width // len(sources[0].low)
        found = Bounds(np.tile(sources[0].low, repeats), np.tile(sources[0].high, repeats))
    if step.pads:
        found = Bounds(np.minimum(found.low, 0.0), np.maximum(found.high, 0.0))
    return Bounds(np.clip(found.low, *step.clip), np.clip(found.high, *step.clip))


def _linear_bounds(step: Step, source: Bounds) -> Bounds:
    assert step.weights is not None  # noqa: S101  # a linear step has weights
    if not np.isfinite(step.weights).all():
        return _unbounded(len(step.weights))
    read = np.abs(step.weights).sum(axis=(1, 2), keepdims=True) > NEGLIGIBLE
    biases = np.zeros(len(step.weights)) if step.bias is None else step.bias
    edges = [_edges(_window_sums(step.weights * read, window), biases, source) for window in step.windows]
    return Bounds(np.min([low for low, _ in edges], axis=0), np.max([high for _, high in edges], axis=0))


def _depthwise_bounds(step: Step, source: Bounds) -> Bounds:
    assert step.weights is not None  # noqa: S101  # a depthwise step has weights
    if not np.isfinite(step.weights).all():
        return _unbounded(step.weights.shape[2])
    read = np.abs(step.weights).sum(axis=(0, 1)) > NEGLIGIBLE
    biases = np.zeros(step.weights.shape[2]) if step.bias is None else step.bias
    lows, highs = [], []
    for window in step.windows:
        # Taps of both signs see different pixels, so the bounds of a channel that varies add up tap by tap.
        taps = step.weights[window.top : window.bottom, window.left : window.right] * read
        rising, falling = _tap_sum(np.maximum(taps, 0.0)), _tap_sum(np.minimum(taps, 0.0))
        varying = ~source.constant
        fixed = biases + _product(_tap_sum(taps), source.low)
        lows.append(np.where(varying, biases + _product(rising, source.low) + _product(falling, source.high), fixed))
        highs.append(np.where(varying, biases + _product(rising, source.high) + _product(falling, source.low), fixed))
    return Bounds(np.min(lows, axis=0), np.max(highs, axis=0))


class _WindowSums(NamedTuple):
    """Sums of taps in one window, (outputs, inputs): all of them, the positive ones, the negative ones."""

    total: Array
    rising: Array
    falling: Array


def _window_sums(weights: Array, window: Window) -> _WindowSums:
    taps = weights[:, window.top : window.bottom, window.left : window.right, :]
    columns = np.moveaxis(taps, 0, 2)
    return _WindowSums(_tap_sum(columns), _tap_sum(np.maximum(columns, 0.0)), _tap_sum(np.minimum(columns, 0.0)))


def _tap_sum(taps: Array) -> Array:
    """Return the sum over the first two axes, added tap by tap: the same on every processor."""
    total = np.zeros(taps.shape[2:])
    for row in taps:
        for tap in row:
            total = total + tap
    return total


def _edges(sums: _WindowSums, biases: Array, source: Bounds) -> tuple[Array, Array]:
    """Return the smallest and largest outputs in one window."""
    same = source.constant
    fixed = _product(sums.total, source.low)
    low = np.where(same, fixed, _product(sums.rising, source.low) + _product(sums.falling, source.high))
    high = np.where(same, fixed, _product(sums.rising, source.high) + _product(sums.falling, source.low))
    return _row_sums(low, biases), _row_sums(high, biases)


def _product(factors: Array, values: Array) -> Array:
    """Multiply; a factor of zero gives zero, even times infinity."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(factors == 0.0, 0.0, factors * values))


def _row_sums(terms: Array, biases: Array) -> Array:
    """Return each row's sum and its bias, exactly rounded.

    Infinite terms of a row are of one sign, as they bound one side; most rows of a model without clips have one, and
    need no sum.
    """
    endless = np.isinf(terms)
    sums = np.where(endless, terms, 0.0).sum(axis=1, initial=0.0)
    for row in np.flatnonzero(~endless.any(axis=1)):
        sums[row] = math.fsum((float(biases[row]), *terms[row].tolist()))
    return np.asarray(sums)


def _without_removable(network: Network) -> Network | None:
    """Return the network after one round of removals, or None where nothing can go."""
    bounds = channel_bounds(network)
    gone: dict[int, Array] = {}
    for group in _groups(network):
        removable = _removable(group, network, bounds)
        if removable.any():
            gone |= {tensor: np.tile(removable, repeats) for tensor, repeats in group.repeats.items()}
    if not gone:
        return None
    steps = tuple(_cut(step, gone, bounds) for step in network.steps)
    widths = {
        tensor: width - int(gone[tensor].sum()) if tensor in gone else width for tensor, width in network.widths.items()
    }
    return Network(steps, widths, network.fixed)


def _groups(network: Network) -> list[_Group]:
    member: dict[int, _Group] = {}

    def found(tensor: int) -> _Group:
        if tensor not in member:  # nobody makes it: an input or a constant
            member[tensor] = _Group(network.widths[tensor], {tensor: 1}, fixed=True)
        return member[tensor]

    def joined(groups: Sequence[_Group], *, fixed: bool) -> None:
        merged = _Group(groups[0].channels, {t: r for g in groups for t, r in g.repeats.items()}, fixed)
        member.update(dict.fromkeys(merged.repeats, merged))

    for step in network.steps:
        sources = [found(source) for source in step.sources]
        if step.kind in ("linear", "barrier"):
            for output in step.outputs:
                own = _Group(network.widths[output], {output: 1}, fixed=step.kind == "barrier")
                member[output] = own
            if step.kind == "barrier":
                for source in step.sources:
                    joined([found(source)], fixed=True)
            continue
        output = step.outputs[0]
        first = step.sources[0]
        repeats = sources[0].repeats[first] * network.widths[output] // network.widths[first]
        unlike = {(g.channels, g.repeats[t]) for g, t in zip(sources, step.sources, strict=True)}
        whole = any(group.fixed for group in sources) or len(unlike) > 1
        joined([*sources, _Group(sources[0].channels, {output: repeats}, fixed=False)], fixed=whole)
    distinct = {id(group): group for group in member.values()}.values()
    return [replace(g, fixed=True) if network.fixed & set(g.repeats) else g for g in distinct]


def _removable(group: _Group, network: Network, bounds: Mapping[int, Bounds]) -> Array:
    """Tell for each channel of a group whether it can go; one always stays."""
    readers = [s for s in network.steps if s.kind == "linear" and s.sources[0] in group.repeats]
    if group.fixed or not readers:
        return np.zeros(group.channels, dtype=bool)
    removable = np.ones(group.channels, dtype=bool)
    for reader in readers:
        source = reader.sources[0]
        features = _spared(reader, bounds[source])
        removable &= features.reshape(group.repeats[source], group.channels).all(axis=0)
    if removable.all():
        removable[0] = False
    return removable


def _spared(reader: Step, source: Bounds) -> Array:
    """Tell for each input channel of a linear step whether it can do without it."""
    assert reader.weights is not None  # noqa: S101  # a linear step has weights
    unread = (np.abs(reader.weights).sum(axis=(1, 2)) <= NEGLIGIBLE).all(axis=0)
    one_window = len(reader.windows) == 1 and reader.bias is not None and bool(np.isfinite(reader.weights).all())
    foldable = source.constant & ((source.low == 0.0) | one_window)
    return np.asarray(unread | foldable)


def _cut(step: Step, gone: Mapping[int, Array], bounds: Mapping[int, Bounds]) -> Step:
    """Return a step without its share of the channels that are gone, with what they added in its bias."""
    if step.kind == "depthwise" and step.outputs[0] in gone:
        return _kept_outputs(step, ~gone[step.outputs[0]], axis=2)
    if step.kind != "linear":
        return step
    if step.sources[0] in gone:
        step = _folded(step, gone[step.sources[0]], bounds[step.sources[0]])
    if step.outputs[0] in gone:
        step = _kept_outputs(step, ~gone[step.outputs[0]], axis=0)
    return step


def _folded(step: Step, gone: Array, source: Bounds) -> Step:
    assert step.weights is not None  # noqa: S101  # a linear step has weights
    bias = step.bias
    adding = gone & source.constant & (source.low != 0.0)
    if bias is not None and adding.any() and len(step.windows) == 1:
        sums = _window_sums(step.weights, step.windows[0]).total[:, adding]
        bias = _row_sums(sums * source.low[adding], bias)
    return replace(step, weights=step.weights[..., ~gone], bias=bias)


def _kept_outputs(step: Step, kept: Array, *, axis: int) -> Step:
    assert step.weights is not None  # noqa: S101  # the step has weights
    bias = None if step.bias is None else step.bias[kept]
    return replace(step, weights=np.compress(kept, step.weights, axis=axis), bias=bias)
