# SPDX-License-Identifier: Apache-2.0
"""Channels that give the same answer to every input are taken out of a graph, and what they add is put into biases.

Training kills channels (their scales end near nothing), and interval arithmetic over the weights proves it: a channel
whose least and largest sum make the same int8 is a constant. It may go where each reader can do without it: a 1x1
convolution and fully connected fold any constant into their biases; a larger window may leave the picture, so that only
the zero point, which adds nothing, can go; depthwise convolutions and pools make another constant of it, and their
readers are asked. Kernels work on fours, so that live channels stay in fours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from converter.c.core.fixed_point import INT8_MAX, INT8_MIN, Integers
from converter.c.core.program import Graph, Operator, Target, Value
from converter.c.core.requantization import ROUND_TWICE, Sums
from converter.c.core.weighted import Weighted, read

_UNIT = 4
_UNKNOWN = 1 << 16


@dataclass(frozen=True)
class Narrowed:
    """What became of a value: the channels (last axis) that it kept, and what each of the others always is."""

    kept: tuple[int, ...]
    constants: Mapping[int, int]

    def widened(self, values: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Return the value as the model has it, of the value as the code has it."""
        whole = np.empty((*values.shape[:-1], len(self.kept) + len(self.constants)), np.int8)
        whole[..., list(self.kept)] = values
        for channel, answer in self.constants.items():
            whole[..., channel] = answer
        return whole


@dataclass(frozen=True)
class Slimmed:
    """The graph without them, and what became of the values that lost some."""

    graph: Graph
    narrowed: Mapping[int, Narrowed]


def without_constant_channels(graph: Graph, target: Target) -> Slimmed:
    """Return a graph that computes the same with fewer channels.

    Raises:
        UnsupportedModelError: a layer with weights cannot be written as C.
    """
    pass_over = _Pass(graph, target)
    for operator in graph.operators:
        pass_over.visit(operator)
    return Slimmed(replace(graph, values=pass_over.values), pass_over.narrowed())


class _Pass:
    """One walk through the graph: what is known of each value's channels, which are kept, and the narrowed values."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self._graph, self._target = graph, target
        self._known: dict[int, Integers] = {}
        self.live: dict[int, Integers] = {}
        self.values = dict(graph.values)
        self._readers: dict[int, list[Operator]] = {}
        for operator in (*graph.operators, *graph.once):
            for number in operator.inputs:
                self._readers.setdefault(number, []).append(operator)
        self._layers: dict[tuple[int, ...], Weighted | None] = {}

    def narrowed(self) -> dict[int, Narrowed]:
        """Return what became of the values that lost channels."""
        return {number: self._narrowed(number, channels) for number, channels in self.live.items()}

    def _narrowed(self, number: int, channels: Integers) -> Narrowed:
        known = self._known[number]
        kept = tuple(map(int, channels))
        return Narrowed(kept, {c: int(known[c]) for c in range(len(known)) if c not in set(kept)})

    def visit(self, operator: Operator) -> None:
        """Narrow what an operator makes, and the constants that only it reads."""
        if not operator.inputs:
            return
        if operator.name == "CONV_2D":
            self._convolution(operator)
        elif operator.name == "FULLY_CONNECTED":
            self._fold_inputs(operator, 0)
        elif operator.name == "DEPTHWISE_CONV_2D":
            self._depthwise(operator)
        elif operator.inputs[0] in self.live and _passes_channels_on(self._graph, operator):
            self._narrow(operator.outputs[0], self.live[operator.inputs[0]])
            self._known[operator.outputs[0]] = self._known[operator.inputs[0]]

    def _layer(self, operator: Operator) -> Weighted | None:
        """Return a layer as it is in the original graph; None where its constants are not its own, to be changed."""
        if operator.outputs not in self._layers:
            channel_axis = 3 if operator.name == "DEPTHWISE_CONV_2D" else 0
            plain = self._owns_constants(operator)
            layer = read(operator, self._graph, channel_axis=channel_axis, rounding=ROUND_TWICE) if plain else None
            self._layers[operator.outputs] = layer
        return self._layers[operator.outputs]

    def _owns_constants(self, operator: Operator) -> bool:
        if len(operator.inputs) < 3 or any(number not in self._graph.values for number in operator.inputs[:3]):
            return False
        weights, bias = (self._graph.values[number] for number in operator.inputs[1:3])
        return all(value.data is not None and len(self._readers[value.number]) == 1 for value in (weights, bias))

    def _convolution(self, operator: Operator) -> None:
        layer = self._layer(operator)
        if layer is None:
            return
        made = layer.made
        known = self._answers(layer, self._input_known(layer))
        stay = self._staying(made, known)
        self._fold_inputs(operator, 0, stay if len(stay) < len(known) else None)
        self._known[made.number] = known
        if len(stay) < len(known):
            self._narrow(made.number, stay)

    def _depthwise(self, operator: Operator) -> None:
        given = operator.inputs[0]
        layer = self._layer(operator) if given in self.live else None
        if layer is None:
            return
        known = np.where(self._known[given] == layer.given.zero_point, layer.given.zero_point, _UNKNOWN)
        self._known[layer.made.number] = self._answers(layer, known[:, None])
        for place, channel_axis in ((1, 3), (2, 0)):
            self._slice_constant(operator, place, channel_axis, self.live[given])
        self._narrow(layer.made.number, self.live[given])

    def _input_known(self, layer: Weighted) -> Integers:
        """Return what is known of each weight's input; under padding only zero points stay what they are."""
        channels = layer.weights.shape[-1]
        known = self._known.get(layer.given.number, np.full(channels, _UNKNOWN))
        if layer.weights.shape[1:-1] != (1, 1):
            known = np.where(known == layer.given.zero_point, known, _UNKNOWN)
        taps = layer.weights[0].size // channels
        return np.tile(known, taps)[None, :]

    @staticmethod
    def _answers(layer: Weighted, known: Integers) -> Integers:
        """Return what each channel always answers, or _UNKNOWN."""
        weights, zero = layer.weights.reshape(len(layer.bias), -1), layer.given.zero_point
        low = weights * (np.where(known == _UNKNOWN, INT8_MIN, known) - zero)
        high = weights * (np.where(known == _UNKNOWN, INT8_MAX, known) - zero)
        sums: Sums = layer.sums
        least = sums.answers((np.minimum(low, high).sum(1) + layer.bias)[:, None])[:, 0]
        most = sums.answers((np.maximum(low, high).sum(1) + layer.bias)[:, None])[:, 0]
        return np.where((least == most) & sums.rise, least, _UNKNOWN)

    def _staying(self, made: Value, known: Integers) -> Integers:
        """Return the channels to keep: those that change, those that a reader needs, and some more to make fours."""
        spare = [channel for channel, answer in enumerate(known)
                 if answer != _UNKNOWN and self._dispensable(made.number, channel, int(answer))]  # fmt: skip
        stay = sorted(set(range(len(known))) - set(spare))
        missing = -len(stay) % _UNIT if stay else _UNIT
        return np.array(sorted([*stay, *spare[:missing]]), np.int64)

    def _dispensable(self, number: int, channel: int, answer: int) -> bool:
        """Tell whether every reader of a value can do without a channel that is always this answer."""
        readers = self._readers.get(number, [])
        if number in self._graph.outputs or not readers:
            return False
        return all(self._does_without(reader, number, channel, answer) for reader in readers)

    def _does_without(self, reader: Operator, number: int, channel: int, answer: int) -> bool:
        value = self._graph.values[number]
        if reader.inputs[0] != number or number in reader.inputs[1:]:
            return False
        if reader.name in ("CONV_2D", "FULLY_CONNECTED"):
            if self._layer(reader) is None:
                return False
            weights = self._graph.values[reader.inputs[1]]
            by_pixel = reader.name == "FULLY_CONNECTED" or weights.shape[1:3] == (1, 1)
            fits = weights.shape[-1] == value.shape[-1]
            return fits and (by_pixel or answer == value.zero_point)
        if reader.name == "DEPTHWISE_CONV_2D":
            return answer == value.zero_point and self._depthwise_does_without(reader, channel)
        if _passes_channels_on(self._graph, reader):
            return self._dispensable(reader.outputs[0], channel, answer)
        return False

    def _depthwise_does_without(self, reader: Operator, channel: int) -> bool:
        layer = self._layer(reader)
        if layer is None or layer.given.shape[-1] == 1 or len(layer.bias) != layer.given.shape[-1]:
            return False
        answer = layer.sums.channel(channel).answers(layer.bias[channel : channel + 1, None])
        return self._dispensable(layer.made.number, channel, int(answer[0, 0]))

    def _fold_inputs(self, operator: Operator, channel_axis: int, stay: Integers | None = None) -> None:
        """Take a layer's missing inputs, and outputs that do not stay, out of its constants."""
        given = operator.inputs[0]
        live = self.live.get(given)
        if live is not None:
            weights = np.asarray(self._graph.values[operator.inputs[1]].data)
            gone = np.setdiff1d(np.arange(weights.shape[-1]), live)
            away = self._known[given][gone] - self._graph.values[given].zero_point
            added = (weights[..., gone].astype(np.int64) * away).reshape(len(weights), -1).sum(1)
            self._add_to_bias(operator, added)
            self._replace_data(operator.inputs[1], weights[..., live])
        if stay is not None:
            for place in (1, 2):
                self._slice_constant(operator, place, channel_axis, stay)

    def _add_to_bias(self, operator: Operator, added: Integers) -> None:
        if added.any():
            bias = self.values[operator.inputs[2]]
            self._replace_data(bias.number, np.asarray(bias.data).astype(np.int64) + added)

    def _slice_constant(self, operator: Operator, place: int, channel_axis: int, channels: Integers) -> None:
        value = self.values[operator.inputs[place]]
        data = np.take(np.asarray(value.data), channels, axis=channel_axis)
        self._replace_data(value.number, data)
        if len(value.scales) > 1:
            narrowed = self.values[value.number]
            scales = tuple(value.scales[channel] for channel in channels)
            self.values[value.number] = replace(narrowed, scales=scales)

    def _replace_data(self, number: int, data: Integers) -> None:
        self.values[number] = replace(self.values[number], data=data, shape=data.shape)

    def _narrow(self, number: int, channels: Integers) -> None:
        value = self.values[number]
        self.values[number] = replace(value, shape=(*value.shape[:-1], len(channels)))
        self.live[number] = channels


def _passes_channels_on(graph: Graph, operator: Operator) -> bool:
    """Tell whether an operator gives each channel's constant to the same channel of its output."""
    given, made = graph.values[operator.inputs[0]], graph.values[operator.outputs[0]]
    if operator.name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return not operator.options.get("fusedActivationFunction")
    one_pixel = given.shape[-1:] == made.shape[-1:] and np.prod(given.shape) == given.shape[-1] == np.prod(made.shape)
    return operator.name in ("RESHAPE", "SQUEEZE") and bool(one_pixel)
