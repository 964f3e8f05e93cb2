# SPDX-License-Identifier: Apache-2.0
"""Rewrite a float model so that it loses less when it is quantized: the same function, easier numbers.

* *Equalization* (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
  section 4.1): a tensor has one scale, so a channel with small values is told coarsely. Between two linear layers with
  nothing or a ReLU between them, a channel may be multiplied by a factor in the first and divided in the second.
  Into a depthwise layer that is free, as its weights have a scale for each channel; into others it costs precision of
  their weights, so the exponent there is a choice.
* *Bias correction* (the same, section 4.2, with the channel means of the calibration samples): rounding moves each
  output channel's mean by a known amount, which the bias takes back.
* *Silent channels*: a channel without weights gets a scale so small that its bias overflows 32 bits and comes out with
  the wrong sign. One weight, too small to matter, gives it a scale in which the bias can be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converter.core.numerics.ranges import ChannelStatistics, Statistics

Array = npt.NDArray[Any]
LayerKind = Literal["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]
_OUTPUT_AXIS: dict[LayerKind, int] = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_INPUT_AXIS: dict[LayerKind, int] = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 1}
_LARGEST_FACTOR = 1000.0
_ACTIVATION_STEPS = 255
#: A quarter of the 32-bit range: room for the accumulated products.
_BIAS_LIMIT = 2.0**29


@dataclass(frozen=True)
class Layer:
    """One linear operator: weights as TFLite stores them, the tensors it reads and writes by name.

    ``follower`` is the position, in the list of layers, of the only reader of the output, where channels may be
    rescaled between the two; else None. ``bias`` has shape (output channels,) or is None. Weights will be integers
    from ``-levels`` to ``levels``, with a scale for each output channel or one ``per_tensor``.
    """

    operator: int
    kind: LayerKind
    input: str
    output: str
    weights: Array
    bias: Array | None
    follower: int | None
    levels: int = 127
    per_tensor: bool = False

    def by_output(self) -> Array:
        """Return the weights with shape (output channels, weights of each)."""
        moved = np.moveaxis(self.weights, _OUTPUT_AXIS[self.kind], 0)
        return moved.reshape(moved.shape[0], -1)

    def with_rows(self, rows: Array) -> "Layer":
        """Return the layer with other weights, in the shape of ``by_output``."""
        axis = _OUTPUT_AXIS[self.kind]
        moved = rows.reshape(np.moveaxis(self.weights, axis, 0).shape)
        return replace(self, weights=np.moveaxis(moved, 0, axis))

    def with_output_factors(self, factors: Array) -> "Layer":
        """Multiply each output channel."""
        bias = None if self.bias is None else self.bias * factors
        return replace(self, weights=self.weights * _along(factors, self.weights, _OUTPUT_AXIS[self.kind]), bias=bias)

    def with_input_factors(self, factors: Array) -> "Layer":
        """Multiply the weights of each input channel."""
        return replace(self, weights=self.weights * _along(factors, self.weights, _INPUT_AXIS[self.kind]))

    def reads_channels(self, count: int) -> bool:
        """Tell whether the layer has one slice of weights for each of ``count`` input channels."""
        return bool(self.weights.shape[_INPUT_AXIS[self.kind]] == count)


def equalize(
    layers: Sequence[Layer], statistics: Statistics, *, exponent: float
) -> tuple[list[Layer], dict[str, ChannelStatistics]]:
    """Even out channels' ranges, wholly into depthwise layers, into others to the power ``exponent``: 0, ½ or 1."""
    changed, after = list(layers), dict(statistics)
    for position, layer in enumerate(layers):
        if layer.follower is None or layer.output not in after:
            continue
        reader = changed[layer.follower]
        factors = _factors(after[layer.output], 1.0 if reader.kind == "DEPTHWISE_CONV_2D" else exponent)
        if not reader.reads_channels(len(factors)):
            continue
        changed[position] = changed[position].with_output_factors(factors)
        changed[layer.follower] = reader.with_input_factors(1.0 / factors)
        after[layer.output] = after[layer.output].scaled(factors)
    return changed, after


def correct_biases(layers: Sequence[Layer], statistics: Statistics) -> list[Layer]:
    """Take back what rounding the weights to the nearest adds to each output channel's mean."""
    return [with_mean_kept(layer, rounding_error(layer), statistics) for layer in layers]


def with_mean_kept(layer: Layer, error: Array, statistics: Statistics) -> Layer:
    """Shift a layer's bias against an ``error`` of its weights (in the shape of ``by_output``).

    A layer without a bias, or whose input was not observed, is returned as it is.
    """
    if layer.bias is None or layer.input not in statistics:
        return layer
    means = statistics[layer.input].mean
    if layer.kind == "DEPTHWISE_CONV_2D":
        multiplier = len(error) // len(means)
        return replace(layer, bias=layer.bias - error.sum(axis=1) * np.repeat(means, multiplier))
    if not layer.reads_channels(len(means)):
        return layer
    per_input = error.reshape(len(error), -1, len(means)).sum(axis=1)
    return replace(layer, bias=layer.bias - (per_input * means).sum(axis=1))  # not @: the same bits everywhere


def revive_silent_channels(layers: Sequence[Layer], statistics: Statistics) -> list[Layer]:
    """Give channels whose weights are too small for their bias one weight that is large enough."""
    return [_revived(layer, statistics[layer.input]) if layer.input in statistics else layer for layer in layers]


def weight_scales(layer: Layer) -> Array:
    """Return what one integer step of the weights is worth, shape (output channels, 1); 1.0 for channels without any.

    In float32, as the quantizer computes it.
    """
    largest = np.abs(layer.by_output()).max(axis=1, keepdims=True).astype(np.float32)
    if layer.per_tensor:
        largest = np.full_like(largest, largest.max())
    scales: Array = (largest / np.float32(layer.levels)).astype(np.float64)
    scales[scales == 0.0] = 1.0
    return scales


def rounding_error(layer: Layer) -> Array:
    """Return quantized minus float weights, rounded to the nearest, in the shape of ``by_output``."""
    rows = layer.by_output().astype(np.float64)
    scales = weight_scales(layer)
    error: Array = np.clip(np.rint(rows / scales), -layer.levels, layer.levels) * scales - rows
    return error


def _factors(found: ChannelStatistics, exponent: float) -> Array:
    largest = np.maximum(np.abs(found.low), np.abs(found.high)).astype(np.float64)
    if not largest.any():
        return np.ones_like(largest)
    ratios = np.where(largest > 0.0, largest.max() / np.where(largest > 0.0, largest, 1.0), 1.0)
    bounded = np.minimum(ratios, _LARGEST_FACTOR)
    if exponent == 1.0:
        return bounded
    return np.sqrt(bounded) if exponent else np.ones_like(bounded)  # a root is exact; other powers vary by processor


def _revived(layer: Layer, inputs: ChannelStatistics) -> Layer:
    if layer.bias is None or layer.per_tensor:
        return layer
    low, high = inputs.range
    input_scale = max(max(high, 0.0) - min(low, 0.0), 1e-6) / _ACTIVATION_STEPS
    rows = layer.by_output().copy()
    needed = np.abs(layer.bias) * layer.levels / (_BIAS_LIMIT * input_scale)
    silent = np.abs(rows).max(axis=1) < needed
    if not silent.any():
        return layer
    rows[silent, 0] = needed[silent]
    return layer.with_rows(rows)


def _along(factors: Array, weights: Array, axis: int) -> Array:
    shape = [1] * weights.ndim
    shape[axis] = -1
    return factors.reshape(shape)
