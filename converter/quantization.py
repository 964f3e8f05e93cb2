# SPDX-License-Identifier: Apache-2.0
"""From a float model and calibration samples to a quantized one.

In this order: prune, observe, condition (keeping the rewrite that comes closest to the float model), round, quantize,
write compactly. :func:`observe` and :func:`quantize_observed` part it in two, for those who try several recipes.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.compaction import compact
from converter.adapters.flatbuffers.end_names import with_end_names
from converter.adapters.flatbuffers.reading import (
    with_versions_written,
)
from converter.adapters.flatbuffers.surgery import prune
from converter.adapters.quantizer import WeightRange, quantize_model
from converter.adapters.running.activations import layer_hessians
from converter.adapters.running.calibration import Counter, KeepingInterpreter, read_scores
from converter.adapters.running.parallel import share, worker_count
from converter.adapters.samples.sets import SampleSet
from converter.core.graph import GraphFacts
from converter.core.numerics.conditioning import Layer, correct_biases, equalize, revive_silent_channels, with_mean_kept
from converter.core.numerics.histograms import Histogram
from converter.core.numerics.range_search import choose_range
from converter.core.numerics.ranges import Range, Statistics, tensor_ranges
from converter.core.numerics.rounding import best_scales, round_layer
from converter.core.recipe import (
    EXPONENTS,
    Conditioning,
    LayerPrecision,
    Recipe,
    base_precision,
    has_integer_activations,
    layer_precisions,
)
from converter.observation import Memory, Observation, Prepared, observe, prepare
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import Preprocessing

Array = npt.NDArray[Any]
#: How many calibration samples GPTQ looks at.
_ROUNDING_SAMPLES = 32
_LEVELS: dict[LayerPrecision, int] = {"int8": 127, "int16x8": 127, "int4": 7, "float32": 127}


class Quantized(NamedTuple):
    """A model as the recipe wants it, and what was done to it.

    ``named`` is the same model before its inner tensors lost their names: tensor numbers are equal. ``reference`` is
    the float model that it stands for, layer by layer: pruned, its channels evened out, its biases not yet corrected,
    as correcting brings the quantized model's answers back to these. ``rewrites`` says what was done besides
    quantizing, ``warnings`` what the samples could not tell.
    """

    data: bytes
    conditioning: Conditioning | None = None
    named: bytes = b""
    reference: bytes = b""
    rewrites: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Conditioned(NamedTuple):
    """A float model rewritten to be quantized: its layers before biases were corrected, and the model after that."""

    conditioning: Conditioning
    layers: list[Layer]
    statistics: Statistics
    model: bytes


@dataclass(frozen=True)
class _Candidate:
    """One way to condition the model: layers as they were before biases were corrected, and the quantized model."""

    conditioning: Conditioning
    layers: list[Layer]
    statistics: Statistics
    ranges: dict[str, Range]
    quantized: bytes


def quantize(model: bytes, recipe: Recipe, calibration: SampleSet | None, how: Preprocessing) -> Quantized:
    """Turn a float model into what the recipe says.

    Raises:
        InputError: integer activations are wanted, and there are no calibration samples.
        SampleError: the samples do not fit, tell nothing, or make the model answer NaN.
        UnsupportedModelError: the quantizer cannot handle the model, or the recipe names what it lacks.
    """
    if has_integer_activations(recipe):
        if calibration is None:
            raise InputError(
                f"converting a float model to {recipe.precision} needs calibration samples",
                hint="name some with --calibration (50 to 500 typical inputs), or keep it float with a recipe",
            )
        return quantize_observed(observe(model, calibration, how, pruned=recipe.prune), recipe)
    if recipe.precision == "float32":
        return _kept_in_float(model, recipe)
    prepared = prepare(model, pruned=recipe.prune)
    return _finished(prepared, quantize_model(prepared.data, prepared.facts, recipe, {}))


def quantize_observed(observed: Observation, recipe: Recipe) -> Quantized:
    """Quantize an observed model as a recipe with integer activations says.

    Raises:
        UnsupportedModelError: the quantizer cannot handle the model, or the recipe names what it lacks.
    """
    chosen = _closest(observed, recipe)
    data = _rounded(observed, recipe, chosen) if recipe.rounding == "gptq" else chosen.quantized
    finished = _finished(observed.prepared, data)
    return finished._replace(
        conditioning=chosen.conditioning,
        reference=observed.patch.with_layers(chosen.layers),
        warnings=observed.warnings,
    )


def _closest(observed: Observation, recipe: Recipe) -> _Candidate:
    """Return the candidate whose scores come closest to the float model's; one is judged while the next is made."""
    if len(recipe.conditioning) == 1:
        return _candidate(observed, recipe, _conditioned(observed, recipe, recipe.conditioning[0]))
    candidates, judged, seen = [], [], set()
    with ThreadPoolExecutor(worker_count()) as pool:
        for name in recipe.conditioning:
            conditioned = _conditioned(observed, recipe, name)
            if conditioned.model in seen:  # there was nothing to rewrite: of equally close ones the first is taken
                continue
            seen.add(conditioned.model)
            candidates.append(_candidate(observed, recipe, conditioned))
            judged.append(pool.submit(_distance, observed, KeepingInterpreter(candidates[-1].quantized)))
        distances = [future.result() for future in judged]
    return candidates[distances.index(min(distances))]


def _kept_in_float(model: bytes, recipe: Recipe) -> Quantized:
    smaller, rewrites = prune(model) if recipe.prune else (model, ())
    return Quantized(compact(smaller) if rewrites else smaller, named=smaller, reference=smaller, rewrites=rewrites)


def _finished(prepared: Prepared, quantized: bytes) -> Quantized:
    named = with_versions_written(quantized, signature_list=prepared.signature_list)
    data = compact(with_end_names(named, prepared.facts))
    return Quantized(data, named=named, reference=prepared.data, rewrites=prepared.rewrites)


def _conditioned(observed: Observation, recipe: Recipe, conditioning: Conditioning) -> _Conditioned:
    layers = _leveled(observed.layers, recipe, observed.prepared.facts)
    statistics = observed.statistics
    exponent = EXPONENTS[conditioning]
    if exponent is not None:
        layers, statistics = equalize(layers, statistics, exponent=exponent)
    layers = revive_silent_channels(layers, statistics)
    corrected = layers if conditioning == "none" else correct_biases(layers, statistics)
    return _Conditioned(conditioning, layers, statistics, observed.patch.with_layers(corrected))


def _candidate(observed: Observation, recipe: Recipe, conditioned: _Conditioned) -> _Candidate:
    ranges = _ranges(observed, recipe, conditioned)
    quantized = quantize_model(conditioned.model, observed.prepared.facts, recipe, ranges)
    return _Candidate(conditioned.conditioning, conditioned.layers, conditioned.statistics, ranges, quantized)


def _leveled(layers: Sequence[Layer], recipe: Recipe, facts: GraphFacts) -> list[Layer]:
    """Return the layers with the number of steps that the recipe gives their weights."""
    named = layer_precisions(recipe, facts)
    precisions = [named.get(layer.output, base_precision(recipe)) for layer in layers]
    return [
        replace(
            layer,
            levels=_LEVELS[precision],
            per_tensor=precision == "int4" and layer.kind == "FULLY_CONNECTED",
        )
        for layer, precision in zip(layers, precisions, strict=True)
    ]


def _ranges(observed: Observation, recipe: Recipe, conditioned: _Conditioned) -> dict[str, Range]:
    """Return the range of each tensor; those of inputs and outputs are never narrowed."""
    ranges = tensor_ranges(conditioned.statistics)
    if recipe.ranges == "minmax":
        return ranges
    facts = observed.prepared.facts
    bits = 16 if base_precision(recipe) == "int16x8" else 8
    ends = {facts.tensors[number].name for number in (*facts.inputs, *facts.outputs)}
    inner = {name: found for name, found in ranges.items() if name not in ends}
    chosen = {
        name: choose_range(histogram, recipe.ranges, percentile=recipe.percentile, bits=bits)
        for name, histogram in _histograms(observed, conditioned.layers, inner).items()
    }
    return {**ranges, **chosen}


def _histograms(observed: Observation, layers: Sequence[Layer], ranges: dict[str, Range]) -> dict[str, Histogram]:
    """Count the values of a model's tensors, its biases as they were: correcting them brings answers back to these."""
    model = observed.patch.with_layers(layers)
    key = hashlib.sha256(model).digest()
    known = observed.memory.histograms
    if key not in known:
        counters = [Counter(model, observed.prepared.facts, ranges) for _ in range(worker_count())]
        share(observed.samples.inputs(), [counter.count for counter in counters])
        known[key] = counters[0].histograms(counters[1:])
    return known[key]


def _distance(observed: Observation, candidate: KeepingInterpreter) -> float:
    """Return the mean absolute difference of the scores from the float model's, on the reference kernels."""
    scores = read_scores(candidate, observed.prepared.facts.score_tensor(), observed.judges)
    apart = float(np.mean([np.abs(mine - float_) for mine, float_ in zip(scores, observed.scores, strict=True)]))
    return float(f"{apart:.11e}")  # the last bits of a mean decide nothing


def _rounded(observed: Observation, recipe: Recipe, chosen: _Candidate) -> bytes:
    """Return the candidate with weights rounded so that its layers' outputs change least, in place of its nearest."""
    hessians = _hessians(observed, chosen)
    integers = {layer.operator for layer in _integer_layers(chosen.layers, recipe, observed)}
    rounded: list[Layer] = []
    weights: list[WeightRange] = []
    for layer in chosen.layers:
        if layer.operator in integers and layer.operator in hessians:
            told, scales = _round(observed.memory, layer)
            weights.append(_weight_range(observed.patch.weights_name(layer.operator), layer, scales))
            changed = layer.with_rows(told)
            if chosen.conditioning != "none":
                error = told - layer.by_output()
                changed = replace(changed, bias=with_mean_kept(layer, error, chosen.statistics).bias)
        else:
            [changed] = [layer] if chosen.conditioning == "none" else correct_biases([layer], chosen.statistics)
        rounded.append(changed)
    model = observed.patch.with_layers(rounded)
    return quantize_model(model, observed.prepared.facts, recipe, chosen.ranges, tuple(weights))


def _integer_layers(layers: Sequence[Layer], recipe: Recipe, observed: Observation) -> list[Layer]:
    named = layer_precisions(recipe, observed.prepared.facts)
    return [layer for layer in layers if named.get(layer.output) != "float32"]


def _hessians(observed: Observation, chosen: _Candidate) -> dict[int, Array]:
    """Return what the layers' inputs look like together, and forget what was rounded for another model."""
    before, memory = observed.patch.with_layers(chosen.layers), observed.memory
    key = hashlib.sha256(before + repr(sorted(chosen.ranges.items())).encode()).digest()
    if key != memory.rounded_for:
        samples = observed.samples.inputs(_ROUNDING_SAMPLES)
        memory.rounded_for, memory.rounded, memory.hessians = key, {}, {}  # two sets may not fit into memory
        memory.hessians = layer_hessians(before, chosen.layers, chosen.ranges, samples)
    return memory.hessians


def _round(memory: Memory, layer: Layer) -> tuple[Array, Array]:
    """Return a layer's rounded weights in the shape of ``by_output``, real values, and their scales."""
    key = (layer.operator, layer.levels, layer.per_tensor)
    if key not in memory.rounded:
        rows, hessian = layer.by_output(), memory.hessians[layer.operator]
        scales = best_scales(rows, hessian, layer.levels, one_for_all=layer.per_tensor)[:, np.newaxis]
        memory.rounded[key] = round_layer(rows, hessian, scales[:, 0], layer.levels) * scales, scales
    return memory.rounded[key]


def _weight_range(name: str, layer: Layer, scales: Array) -> WeightRange:
    """Return the range from which the quantizer makes exactly these scales."""
    largest = scales.astype(np.float32) * np.float32(layer.levels)
    return WeightRange(name, largest.reshape([-1] + [1] * (layer.weights.ndim - 1)))
