# SPDX-License-Identifier: Apache-2.0
"""ai-edge-quantizer behind one function: a float model and its ranges in, an int8 model out."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from converter.adapters.flatbuffer import with_signature_list, with_versions_written
from converter.core.graph import GraphFacts
from converter.core.ranges import Range
from edgefleet.contracts.errors import UnsupportedModelError


def quantize_int8(model: bytes, facts: GraphFacts, ranges: Mapping[str, Range]) -> bytes:
    """Quantize weights per output channel and activations per tensor, inputs and outputs included.

    Raises:
        UnsupportedModelError: the quantizer cannot handle the model.
    """
    from ai_edge_quantizer import quantizer, recipe

    listed = with_signature_list(model)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # it draws bars unasked
            warnings.simplefilter("ignore", UserWarning)  # it keeps all tensors of an interpreter on purpose
            warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
            worker = quantizer.Quantizer(listed, recipe.static_wi8_ai8())
            result = worker.quantize(
                _statistics(facts, ranges), enable_progress_bar=False, enable_progress_report=False
            )
    except RuntimeWarning as error:
        raise UnsupportedModelError(
            "the model cannot be quantized to int8: a channel's bias is too large for the scale of its weights",
            hint="prune channels whose weights are all near zero, or give each layer weights and a bias of its own",
        ) from error
    except Exception as error:  # the quantizer raises bare ValueError, KeyError, RuntimeError, … for what it cannot do
        raise UnsupportedModelError(
            f"the model cannot be quantized to int8: {_first_line(error)}",
            hint='keep it float with a recipe (precision = "float32"), or change the operator that is named',
        ) from error
    return with_versions_written(bytes(result.quantized_model), signature_list=listed is model)


def _statistics(facts: GraphFacts, ranges: Mapping[str, Range]) -> dict[str, dict[str, Any]]:
    """Return ranges in the quantizer's form: arrays of one value with the tensor's rank."""
    ranks = {tensor.name: len(tensor.shape) for tensor in facts.tensors}
    return {
        name: {
            "min": np.full([1] * ranks[name], found.low, dtype=np.float32),
            "max": np.full([1] * ranks[name], found.high, dtype=np.float32),
        }
        for name, found in ranges.items()
        if name in ranks
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
