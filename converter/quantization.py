# SPDX-License-Identifier: Apache-2.0
"""From a float model and calibration samples to an int8 model."""

from typing import NamedTuple

from converter.adapters.calibration import Calibrator
from converter.adapters.flatbuffer import constant_tensor_names, read_model
from converter.adapters.quantizer import quantize_int8
from converter.adapters.samples import SampleSet, canonical_order, model_inputs
from converter.core.graph import GraphFacts
from converter.core.ranges import check_finite, merge_ranges
from converter.core.recipe import Recipe
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.runtimes.litert import LiteRtInterpreter


class Quantized(NamedTuple):
    """An int8 model, and what is to be told of how it was made."""

    data: bytes
    notes: tuple[str, ...]


def quantize(
    model: bytes, facts: GraphFacts, recipe: Recipe, calibration: SampleSet | None, how: Preprocessing
) -> Quantized:
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
    order = canonical_order(calibration)
    specs = LiteRtInterpreter(model, kernels="reference").inputs
    inputs = model_inputs(calibration, order, how, specs)
    ranges = merge_ranges(Calibrator(model, constant_tensor_names(read_model(model))).ranges(inputs))
    check_finite(ranges)
    return Quantized(quantize_int8(model, facts, ranges), ())
