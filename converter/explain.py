# SPDX-License-Identifier: Apache-2.0
"""Say which layer of a quantized model lies how far from its float source, on the reference kernels."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.flatbuffers.surgery import prune
from converter.adapters.running.layer_outputs import LayerOutputs
from converter.core.numerics.layer_error import ErrorSums, layer_errors, layer_pairs
from edgefleet.contracts.errors import SampleError, UnsupportedModelError
from edgefleet.contracts.evidence import LayerError

Array = npt.NDArray[Any]


def explain(float_model: bytes, quantized: bytes, samples: Iterable[Sequence[Array]]) -> tuple[LayerError, ...]:
    """Run both models on the same samples and compare layer by layer; the worst comes first.

    ``samples`` hold one array an input, as the float model takes them. ``float_model`` is best the one that the
    quantized model stands for (:attr:`converter.quantization.Quantized.reference`): a layer whose channels were evened
    out differs from the source's for that reason alone. Where channels were removed, those that are proved constant are
    taken out of the float model too; a layer that still has another shape is left out.

    Raises:
        UnsupportedModelError: the models have no layer in common, or the reference kernels cannot load one.
        SampleError: there are no samples, or they do not fit.
        ModelFailedError: a model failed on a sample.
    """
    before, after = LayerOutputs(float_model), LayerOutputs(quantized)
    pairs = layer_pairs(before.facts, after.facts)
    smaller, removed = prune(float_model)
    if removed and len(pruned := layer_pairs(read_facts(smaller), after.facts)) > len(pairs):
        before, pairs = LayerOutputs(smaller), pruned
    if not pairs:
        raise UnsupportedModelError(
            "the two models have no layer in common",
            hint="compare a quantized model with the one that it was made from",
        )
    sums = [ErrorSums() for _ in pairs]
    taken = 0
    for sample in samples:
        taken += 1
        before.invoke(sample)
        after.invoke(sample)
        wanted = before.read(pair.float_tensor for pair in pairs)
        got = after.read(pair.quantized_tensor for pair in pairs)
        for total, x, q in zip(sums, wanted, got, strict=True):
            total.add(x, q)
    if not taken:
        raise SampleError("there are no samples to explain the model with", hint="give at least one sample")
    return layer_errors(pairs, sums)
