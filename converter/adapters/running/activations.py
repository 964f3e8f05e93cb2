# SPDX-License-Identifier: Apache-2.0
"""What a layer's inputs look like together: sums of products over calibration samples (the Hessian of its error).

Inputs are counted in whole 8-bit steps, so that every sum is an integer below 2^53: float64 holds it exactly, and
neither the order of the samples nor the processor's way of adding changes a bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from converter.adapters.running.calibration import KeepingInterpreter
from converter.core.numerics.conditioning import Layer
from converter.core.numerics.ranges import Range

Array = npt.NDArray[Any]
#: Positions of a picture that are looked at; more tell the same at a higher price.
_MOST_ROWS = 256
#: Wider layers are left alone: their matrix would need gigabytes.
_WIDEST = 4096
_STEPS = 255


class _Watched(NamedTuple):
    """A layer, the number of the tensor that it reads, and how it moves over it."""

    layer: Layer
    tensor: int
    options: Any


def layer_hessians(
    model: bytes, layers: Sequence[Layer], ranges: Mapping[str, Range], samples: Iterable[Sequence[Array]]
) -> dict[int, Array]:
    """Return the Hessian of each CONV_2D and FULLY_CONNECTED layer, by operator number.

    Shape (fan-in, fan-in), float64 integers: sums over samples and positions of products of two inputs, in the order
    of the layer's ``by_output`` weights. Layers without a range, or too wide, are left out.
    """
    watched = _watched(model, layers, ranges)
    hessians = {watch.layer.operator: np.zeros((_fan_in(watch.layer),) * 2) for watch in watched}
    interpreter = KeepingInterpreter(model)
    for sample in samples:
        interpreter.invoke(sample)
        for watch in watched:
            values = interpreter.read(watch.tensor)
            if values is not None:
                rows = _rows(_codes(values, ranges[watch.layer.input]), watch)
                hessians[watch.layer.operator] += rows.T @ rows  # exact: see the module's first lines
    return hessians


def _watched(model: bytes, layers: Sequence[Layer], ranges: Mapping[str, Range]) -> list[_Watched]:
    graph = schema.Model.GetRootAs(model, 0).Subgraphs(0)
    watched = []
    for layer in layers:
        if layer.kind == "DEPTHWISE_CONV_2D" or layer.input not in ranges or _fan_in(layer) > _WIDEST:
            continue
        operator = graph.Operators(layer.operator)
        watched.append(_Watched(layer, int(operator.InputsAsNumpy()[0]), _options(operator, layer)))
    return watched


def _options(operator: Any, layer: Layer) -> Any:
    if layer.kind != "CONV_2D":
        return None
    table, options = operator.BuiltinOptions(), schema.Conv2DOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _fan_in(layer: Layer) -> int:
    return int(layer.by_output().shape[1])


def _codes(values: Array, found: Range) -> Array:
    """Return values in whole steps of the tensor's scale, with zero at 0."""
    scale = (max(found.high, 0.0) - min(found.low, 0.0)) / _STEPS or 1.0
    codes: Array = np.rint(np.clip(values.astype(np.float64), found.low, found.high) / scale)
    return codes


def _rows(codes: Array, watch: _Watched) -> Array:
    """Return what the layer multiplies its weights with, one row a position."""
    if watch.options is None:
        rows = codes.reshape(-1, _fan_in(watch.layer))
    else:
        rows = _patches(codes, watch.layer.weights.shape[1:3], watch.options)
    step = -(-len(rows) // _MOST_ROWS)
    return rows[::step]


def _patches(codes: Array, kernel: tuple[int, ...], options: Any) -> Array:
    strides = (options.StrideH(), options.StrideW())
    dilations = (options.DilationHFactor(), options.DilationWFactor())
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if options.Padding() == schema.Padding.SAME:
        codes = np.pad(codes, [(0, 0), *_same_padding(codes.shape[1:3], spans, strides), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(codes, spans, axis=(1, 2))
    taken = windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return taken.transpose(0, 1, 2, 4, 5, 3).reshape(-1, kernel[0] * kernel[1] * codes.shape[3])


def _same_padding(sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    padding = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        missing = max((-(-size // stride) - 1) * stride + span - size, 0)
        padding.append((missing // 2, missing - missing // 2))
    return padding
