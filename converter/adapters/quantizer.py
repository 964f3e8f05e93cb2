# SPDX-License-Identifier: Apache-2.0
"""ai-edge-quantizer behind one function: a float model, a recipe and ranges in, a model with integer weights out."""

import contextlib
import importlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import graph_facts, read_model
from converter.core.graph import GraphFacts
from converter.core.numerics.ranges import Range
from converter.core.recipe import LayerPrecision, Recipe, base_precision, has_integer_activations, layer_precisions
from edgefleet.contracts.errors import UnsupportedModelError

Array = npt.NDArray[Any]
_ACTIVATION_BITS: Mapping[LayerPrecision, int] = {"int8": 8, "int16x8": 16, "int4": 8}
#: Operators that hand on parts of their input as they are.
_PARTING = ("SPLIT", "SPLIT_V", "UNPACK")
_STAY_FLOAT = 'keep it float with a recipe (precision = "float32"), or change the operator that is named'


class WeightRange(NamedTuple):
    """The largest absolute weight of each output channel that a layer's scales are made from.

    ``tensor`` names the weights; ``largest`` has their rank, with 1 along every axis but the channels'.
    """

    tensor: str
    largest: Array


def load_early() -> None:
    """Start to import the quantizer in a thread of its own: that takes as long as a calibration pass."""
    threading.Thread(target=importlib.import_module, args=("ai_edge_quantizer.quantizer",), daemon=True).start()


def quantize_model(
    model: bytes,
    facts: GraphFacts,
    recipe: Recipe,
    ranges: Mapping[str, Range],
    weights: tuple[WeightRange, ...] = (),
) -> bytes:
    """Quantize a float model as the recipe says; ``ranges`` are needed for integer activations only.

    The model has its operator codes in their newer field and a list of signatures, or the quantizer misreads it.
    Operator versions are as the quantizer leaves them.

    Raises:
        UnsupportedModelError: the quantizer cannot handle the model, or the recipe names what the model lacks.
    """
    rules = _integer_rules(recipe, facts) if has_integer_activations(recipe) else _float_rules(recipe)
    statistics = _statistics(facts, ranges, weights) if has_integer_activations(recipe) else None
    try:
        quantized = _run(model, rules, statistics)
    except RuntimeWarning as error:
        raise UnsupportedModelError(
            f"the model cannot be quantized to {recipe.precision}: "
            "a channel's bias is too large for the scale of its weights",
            hint="prune channels whose weights are all near zero, or give each layer weights and a bias of its own",
        ) from error
    except Exception as error:  # the quantizer raises bare ValueError, KeyError, RuntimeError, … for what it cannot do
        raise UnsupportedModelError(
            f"the model cannot be quantized to {recipe.precision}: {_first_line(error)}", hint=_STAY_FLOAT
        ) from error
    return _with_unread_outputs(quantized) if _unread_outputs(facts) else quantized


def _unread_outputs(facts: GraphFacts) -> set[int]:
    """Return the numbers of float tensors that an operator makes beside others, and that nobody reads."""
    read = {number for operator in facts.operators for number in operator.inputs} | set(facts.outputs)
    made = {number for operator in facts.operators if len(operator.outputs) > 1 for number in operator.outputs}
    return {number for number in made - read if facts.tensors[number].dtype == "float32"}


def _with_unread_outputs(model: bytes) -> bytes:
    """Return the model with all outputs of an operator in one type, where the operator only moves its data.

    The quantizer leaves a tensor that nobody reads in float (half of an LSTM's SPLIT in its first step), and then
    XNNPACK does not load the model.
    """
    tree = read_model(model)
    facts = graph_facts(tree, len(model))
    tensors = tree.subgraphs[0].tensors
    for operator in facts.operators:
        kept = [number for number in operator.inputs if number >= 0 and facts.tensors[number].quantized]
        if operator.name in _PARTING and kept:
            for number in operator.outputs:
                if facts.tensors[number].dtype == "float32":
                    tensors[number].type = tensors[kept[0]].type
                    tensors[number].quantization = tensors[kept[0]].quantization
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


def _run(model: bytes, rules: Any, statistics: dict[str, dict[str, Array]] | None) -> bytes:
    from ai_edge_quantizer import quantizer

    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # it draws bars unasked
        warnings.simplefilter("ignore", UserWarning)  # it keeps all tensors of an interpreter on purpose
        warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
        worker = quantizer.Quantizer(model, rules)
        result = worker.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _float_rules(recipe: Recipe) -> Any:
    """Return the quantizer's recipe where activations stay in float."""
    from ai_edge_quantizer import qtyping, recipe_manager

    rules = recipe_manager.RecipeManager()
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    if recipe.precision == "float16":
        half = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        rules.add_quantization_config(".*", every, half, recipe_manager.AlgorithmName.FLOAT_CASTING)
    else:
        rules.add_dynamic_config(".*", every, 8)
        # Every release of TFLite runs FULLY_CONNECTED with one scale; one for each channel came with LiteRT.
        whole = qtyping.QuantGranularity.TENSORWISE
        rules.add_dynamic_config(".*", qtyping.TFLOperationName.FULLY_CONNECTED, 8, whole)
    return rules.get_quantization_recipe()


def _integer_rules(recipe: Recipe, facts: GraphFacts) -> Any:
    """Return the quantizer's recipe where activations are integers: one rule for all, and one for each named layer."""
    from ai_edge_quantizer import qtyping, recipe_manager

    rules = recipe_manager.RecipeManager()
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    rules.add_static_config(".*", every, _ACTIVATION_BITS[base_precision(recipe)], 8)
    if facts.custom_outputs() & set(facts.outputs):  # they have no ranges, and all outputs go by one rule
        ends = qtyping.TFLOperationName.OUTPUT
        rules.add_quantization_config(".*", ends, None, recipe_manager.AlgorithmName.NO_QUANTIZE)
    operators = {facts.tensors[o.outputs[0]].name: o.name for o in facts.operators if o.outputs}
    for layer, precision in layer_precisions(recipe, facts).items():
        scope = f"^{re.escape(layer)};?$"
        if precision == "float32":
            rules.add_quantization_config(scope, every, None, recipe_manager.AlgorithmName.NO_QUANTIZE)
        elif precision == "int4":
            rules.add_quantization_config(scope, *_four_bits(operators[layer]))
        else:
            rules.add_static_config(scope, every, _ACTIVATION_BITS[precision], 8)
    return rules.get_quantization_recipe()


def _four_bits(operator: str) -> tuple[Any, Any]:
    """Return what the quantizer is told for 4-bit weights under 8-bit activations.

    FULLY_CONNECTED has one scale: with one for each channel only LiteRT runs it.
    """
    from ai_edge_quantizer import qtyping

    whole = operator == "FULLY_CONNECTED"
    granularity = qtyping.QuantGranularity.TENSORWISE if whole else qtyping.QuantGranularity.CHANNELWISE
    return qtyping.TFLOperationName(operator), qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=False),
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=4, symmetric=True, granularity=granularity),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )


def _statistics(
    facts: GraphFacts, ranges: Mapping[str, Range], weights: tuple[WeightRange, ...]
) -> dict[str, dict[str, Array]]:
    """Return ranges in the quantizer's form: float32 arrays of the tensor's rank."""
    ranks = {tensor.name: len(tensor.shape) for tensor in facts.tensors}
    statistics = {
        name: {
            "min": np.full([1] * ranks[name], found.low, dtype=np.float32),
            "max": np.full([1] * ranks[name], found.high, dtype=np.float32),
        }
        for name, found in ranges.items()
        if name in ranks
    }
    for name, largest in weights:
        statistics[name] = {"min": -largest.astype(np.float32), "max": largest.astype(np.float32)}
    return statistics


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
