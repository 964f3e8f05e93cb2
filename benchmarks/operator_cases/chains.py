# SPDX-License-Identifier: Apache-2.0
"""Chains: models of many layers drawn at random, each layer reading what the one before it wrote.

Their numbers mean nothing. They are for what depends on which layers a model has: its code, its memory plan.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.operator_cases.case import GraphWriter
from benchmarks.operator_cases.drawing import Draw
from converter.c.core.program import Graph

_LARGEST_BYTES = 4096
_CHANNELS = (1, 3, 4, 8, 12, 16, 20)
_SAME, _NO_ACTIVATION = 0, 0


def drawn_chain(seed: int, layers: int) -> Graph:
    """Return an int8 model of so many operators; a fully connected layer comes with two reshapes."""
    chain = _Chain(Draw(seed))
    kinds = chain.draw.random.permutation(len(_KINDS))[: chain.draw.size(2, len(_KINDS))]
    while len(chain.graph.operators) < layers:
        _KINDS[int(chain.draw.one_of(kinds))](chain)
    return Graph(chain.graph.values, tuple(chain.graph.operators), (chain.given,), (chain.last,), ())


class _Chain:
    """A graph that grows; ``last`` is its newest tensor, always with four axes."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.graph = draw, GraphWriter()
        self.given = self.last = self.tensor((1, draw.size(4, 12), draw.size(4, 12), draw.one_of(_CHANNELS)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The newest tensor's shape."""
        return self.graph.values[self.last].shape

    def tensor(self, shape: tuple[int, ...]) -> int:
        """Add a tensor with a scale of its own."""
        return self.graph.tensor(shape, self.draw.scale(), self.draw.zero_point())

    def alike(self, shape: tuple[int, ...]) -> int:
        """Add a tensor with the newest one's scale."""
        value = self.graph.values[self.last]
        return self.graph.tensor(shape, value.scales, value.zero_point)

    def weights(self, shape: tuple[int, ...], channel_axis: int) -> tuple[int, int]:
        """Add weights and biases, per channel; one in five times of four bits."""
        channels, narrow = shape[channel_axis], self.draw.chance(0.2)
        scales = np.exp(self.draw.random.normal(-5, 0.5, channels)).astype(np.float32)
        data = self.draw.random.integers(-7, 8, shape).astype(np.int8)
        weights = self.graph.tensor(
            shape, scales.tolist(), dtype="int4" if narrow else "int8", data=data, channel_axis=channel_axis
        )
        bias_scales = (scales * np.float32(self.graph.values[self.last].scales[0])).tolist()
        biases = self.draw.random.integers(-99, 100, channels).astype(np.int32)
        return weights, self.graph.tensor((channels,), bias_scales, dtype="int32", data=biases)

    def then(self, name: str, inputs: list[int], output: int, **options: object) -> None:
        """Add an operator."""
        self.graph.operator(name, inputs, [output], **options)
        self.last = output


def _convolution(chain: _Chain) -> None:
    _, height, width, channels = chain.shape
    side, outputs = chain.draw.one_of((1, 3)), chain.draw.one_of(_CHANNELS)
    weights, bias = chain.weights((outputs, side, side, channels), 0)
    chain.then(
        "CONV_2D", [chain.last, weights, bias], chain.tensor((1, height, width, outputs)),
        padding=_SAME, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
        fusedActivationFunction=chain.draw.activation(),
    )  # fmt: skip


def _depthwise(chain: _Chain) -> None:
    _, height, width, channels = chain.shape
    side, stride = chain.draw.one_of((2, 3, 3, 3)), chain.draw.one_of((1, 1, 2))
    weights, bias = chain.weights((1, side, side, channels), 3)
    chain.then(
        "DEPTHWISE_CONV_2D", [chain.last, weights, bias],
        chain.tensor((1, -(-height // stride), -(-width // stride), channels)),
        padding=_SAME, strideH=stride, strideW=stride, dilationHFactor=1, dilationWFactor=1, depthMultiplier=1,
        fusedActivationFunction=chain.draw.activation(),
    )  # fmt: skip


def _fully_connected(chain: _Chain) -> None:
    count = int(np.prod(chain.shape))
    if count > _LARGEST_BYTES // 2:
        return
    _reshaped(chain, (1, count))
    outputs = chain.draw.one_of(_CHANNELS)
    weights, bias = chain.weights((outputs, count), 0)
    chain.then(
        "FULLY_CONNECTED", [chain.last, weights, bias], chain.tensor((1, outputs)),
        fusedActivationFunction=chain.draw.activation(), keepNumDims=False,
    )  # fmt: skip
    _reshaped(chain, (1, 1, 1, outputs))


def _reshaped(chain: _Chain, shape: tuple[int, ...]) -> None:
    chain.then(
        "RESHAPE", [chain.last, chain.graph.integers(shape)], chain.alike(shape), newShape=np.array(shape, np.int32)
    )


def _pool(name: str) -> Callable[[_Chain], None]:
    def pool(chain: _Chain) -> None:
        chain.then(
            name, [chain.last], chain.alike(chain.shape), padding=_SAME, strideH=1, strideW=1, filterHeight=2,
            filterWidth=2, fusedActivationFunction=_NO_ACTIVATION,
        )  # fmt: skip

    return pool


def _mean(chain: _Chain) -> None:
    axes = chain.graph.integers([1, 2])
    chain.then("MEAN", [chain.last, axes], chain.tensor((1, 1, 1, chain.shape[3])), keepDims=True)


def _binary(name: str) -> Callable[[_Chain], None]:
    def binary(chain: _Chain) -> None:
        other = chain.last
        if chain.draw.chance():
            channels = chain.shape[3]
            other = chain.graph.tensor((channels,), 0.03, 3, data=chain.draw.bytes((channels,)))
        output = chain.tensor(chain.shape)
        chain.then(name, [chain.last, other], output, fusedActivationFunction=chain.draw.activation())

    return binary


def _unary(name: str, scale: float = 0.0, zero_point: int = 0, **options: float) -> Callable[[_Chain], None]:
    def unary(chain: _Chain) -> None:
        shape = chain.shape
        chain.then(
            name,
            [chain.last],
            chain.graph.tensor(shape, scale, zero_point) if scale else chain.tensor(shape),
            **options,
        )

    return unary


def _hard_swish(chain: _Chain) -> None:
    scale = chain.graph.values[chain.last].scales[0]
    chain.then("HARD_SWISH", [chain.last], chain.graph.tensor(chain.shape, scale, -10))


def _pad(chain: _Chain) -> None:
    one, height, width, channels = chain.shape
    if (height + 1) * (width + 2) * channels > _LARGEST_BYTES:
        return
    edges = chain.graph.integers([[0, 0], [1, 0], [1, 1], [0, 0]])
    chain.then("PAD", [chain.last, edges], chain.alike((one, height + 1, width + 2, channels)))


def _transpose(chain: _Chain) -> None:
    one, height, width, channels = chain.shape
    chain.then(
        "TRANSPOSE", [chain.last, chain.graph.integers([0, 2, 1, 3])], chain.alike((one, width, height, channels))
    )


def _resize(chain: _Chain) -> None:
    height, width = chain.draw.sizes(2, 1, 10)
    chain.then(
        "RESIZE_NEAREST_NEIGHBOR", [chain.last, chain.graph.integers([height, width])],
        chain.alike((1, height, width, chain.shape[3])), alignCorners=False, halfPixelCenters=False,
    )  # fmt: skip


def _strided_slice(chain: _Chain) -> None:
    one, height, width, channels = chain.shape
    bounds = [chain.graph.integers(row) for row in ([0] * 4, [one, height, width, channels], [1, 2, 1, 1])]
    chain.then("STRIDED_SLICE", [chain.last, *bounds], chain.alike((one, -(-height // 2), width, channels)))


def _concatenation(chain: _Chain) -> None:
    one, height, width, channels = chain.shape
    if 2 * height * width * channels > _LARGEST_BYTES:
        return
    output = chain.alike((one, height, width, 2 * channels))
    chain.then("CONCATENATION", [chain.last, chain.last], output, axis=3, fusedActivationFunction=_NO_ACTIVATION)


#: Each appends operators to a chain, or none where its tensor is too large.
_KINDS: tuple[Callable[[_Chain], None], ...] = (
    _convolution, _depthwise, _fully_connected, _pool("AVERAGE_POOL_2D"), _pool("MAX_POOL_2D"), _mean,
    _binary("ADD"), _binary("SUB"), _binary("MUL"), _unary("RELU"), _unary("LEAKY_RELU", alpha=0.1),
    _unary("LOGISTIC", 1 / 256, -128), _unary("TANH", 1 / 128), _unary("SOFTMAX", 1 / 256, -128, beta=1.0),
    _unary("QUANTIZE"), _hard_swish, _pad, _transpose, _resize, _strided_slice, _concatenation,
)  # fmt: skip
