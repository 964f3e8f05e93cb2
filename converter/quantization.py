# SPDX-License-Identifier: Apache-2.0
"""From a float model and calibration samples to an int8 model: observe, condition, quantize, keep the closest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converter.adapters.calibration import Calibrator, read_scores
from converter.adapters.flatbuffer import (
    constant_tensor_names,
    graph_facts,
    read_facts,
    read_model,
    with_modern_operator_codes,
)
from converter.adapters.layer_weights import read_layers, with_layers
from converter.adapters.quantizer import quantize_int8
from converter.adapters.samples import SampleSet, canonical_order, model_inputs
from converter.core.board_checks import check_quantizable
from converter.core.conditioning import Layer, correct_biases, equalize, revive_silent_channels
from converter.core.parity_choice import spread
from converter.core.ranges import ChannelStatistics, Statistics, merge_statistics, tensor_ranges
from converter.core.recipe import EXPONENTS, Conditioning, Recipe
from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.runtimes.litert import LiteRtInterpreter

Array = npt.NDArray[Any]
#: How many calibration samples decide between candidates.
_JUDGES = 64
#: Inputs below this are nothing that a sensor tells: their scale would be too small for any bias.
_SMALLEST_INPUT = 1e-20


class Quantized(NamedTuple):
    """An int8 model, and the conditioning that was kept."""

    data: bytes
    conditioning: Conditioning


@dataclass(frozen=True)
class _Observed:
    """A float model, what the calibration samples made of its tensors, and its scores for some of them."""

    model: bytes
    layers: list[Layer]
    statistics: dict[str, ChannelStatistics]
    judges: list[list[Array]]
    scores: list[Array]


def quantize(model: bytes, recipe: Recipe, calibration: SampleSet | None, how: Preprocessing) -> Quantized:
    """Quantize a float model as the recipe says.

    Raises:
        InputError: there are no calibration samples.
        SampleError: the samples do not fit, or make the model answer NaN.
        UnsupportedModelError: the quantizer cannot handle the model.
    """
    if calibration is None:
        raise InputError(
            "converting a float model to int8 needs calibration samples",
            hint="name some with --calibration (50 to 500 typical inputs), or keep it float with a recipe",
        )
    modern = with_modern_operator_codes(model)
    check_quantizable(read_facts(modern))
    observed = _observe(modern, calibration, how)
    tensor_ranges(observed.statistics)
    _check_inputs(observed)
    candidates = [(name, _quantize(observed, name)) for name in recipe.conditioning]
    if len(candidates) == 1:
        return Quantized(candidates[0][1], candidates[0][0])
    distances = [_distance(observed, candidate) for _, candidate in candidates]
    name, closest = candidates[distances.index(min(distances))]
    return Quantized(closest, name)


def _observe(model: bytes, calibration: SampleSet, how: Preprocessing) -> _Observed:
    order = canonical_order(calibration)
    specs = LiteRtInterpreter(model, kernels="reference").inputs
    judging = set(spread(min(_JUDGES, len(order)), len(order)))
    judges: list[list[Array]] = []
    statistics: dict[str, ChannelStatistics] = {}
    source = read_model(model)
    calibrator = Calibrator(model, constant_tensor_names(source))
    for place, sample in enumerate(model_inputs(calibration, order, how, specs)):
        statistics = merge_statistics([statistics, *calibrator.observe([sample])])
        if place in judging:
            judges.append(sample)
    scores = read_scores(model, graph_facts(source, len(model)), judges)
    return _Observed(model, read_layers(model), statistics, judges, scores)


def _check_inputs(observed: _Observed) -> None:
    facts = read_facts(observed.model)
    for name in (facts.tensors[number].name for number in facts.inputs):
        found = observed.statistics.get(name)
        if found is not None and max(abs(found.range.low), abs(found.range.high)) < _SMALLEST_INPUT:
            raise SampleError(
                f"the calibration samples of input '{name}' are all 0, so that no scale can be made from them",
                hint="give typical inputs; check the preprocessing if these are",
            )


def _quantize(observed: _Observed, conditioning: Conditioning) -> bytes:
    layers, statistics = _condition(observed.layers, observed.statistics, conditioning)
    model = with_layers(observed.model, layers) if layers else observed.model
    return quantize_int8(model, read_facts(model), tensor_ranges(statistics))


def _condition(
    layers: Sequence[Layer], statistics: Statistics, conditioning: Conditioning
) -> tuple[list[Layer], Statistics]:
    conditioned = list(layers)
    exponent = EXPONENTS[conditioning]
    if exponent is not None:
        conditioned, statistics = equalize(conditioned, statistics, exponent=exponent)
    conditioned = revive_silent_channels(conditioned, statistics)
    if conditioning != "none":
        conditioned = correct_biases(conditioned, statistics)
    return conditioned, statistics


def _distance(observed: _Observed, candidate: bytes) -> float:
    """Return the mean absolute difference of the scores from the float model's, on the reference kernels."""
    scores = read_scores(candidate, read_facts(candidate), observed.judges)
    return float(np.mean([np.abs(mine - float_) for mine, float_ in zip(scores, observed.scores, strict=True)]))
