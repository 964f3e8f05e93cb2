# SPDX-License-Identifier: Apache-2.0
"""Channels go only where it is proved that nothing changes: small hand-made graphs, run before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.adapters.flatbuffers.layer_weights import read_layers
from converter.adapters.flatbuffers.reading import read_facts, read_model
from converter.adapters.flatbuffers.surgery import prune
from converter.core.numerics.pruning import window_ranges
from edgefleet.runtimes.litert import LiteRtInterpreter

Array = np.ndarray[Any, Any]
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
NONE, RELU, RELU6, TANH = (getattr(schema.ActivationFunctionType, name) for name in ("NONE", "RELU", "RELU6", "TANH"))
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "v1_float32.tflite"


class GraphMaker:
    """Puts a float TFLite graph together, operator by operator; tensors go by number."""

    def __init__(self, *shape: int) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.input = self.tensor(shape)

    def tensor(self, shape: Sequence[int]) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), schema.TensorType.FLOAT32, 0
        tensor.name = b"t%d" % len(self.graph.tensors)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values: Array) -> int:
        number = self.tensor(values.shape)
        tensor = self.graph.tensors[number]
        whole = values.dtype.kind == "i"
        tensor.type = schema.TensorType.INT32 if whole else schema.TensorType.FLOAT32
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype("<i4" if whole else "<f4").tobytes(), dtype=np.uint8)
        self.model.buffers.append(buffer)
        tensor.buffer = len(self.model.buffers) - 1
        return number

    def operator(self, name: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs = len(self.model.operatorCodes) - 1, list(inputs)
        made.outputs = [self.tensor(shape)]
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(made)
        return int(made.outputs[0])

    def convolve(
        self,
        source: int,
        weights: Array,
        bias: Array,
        *,
        padding: int = SAME,
        activation: int = RELU,
        stride: int = 1,
        depthwise: bool = False,
    ) -> int:
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding, options.fusedActivationFunction = padding, activation
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        if depthwise:
            options.depthMultiplier = 1
        _, height, width, _ = self.graph.tensors[source].shape
        taps = weights.shape[1]
        sizes = [-(-n // stride) if padding == SAME else (n - taps) // stride + 1 for n in (height, width)]
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        inputs = [source, self.constant(weights), self.constant(bias)]
        return self.operator(name, inputs, [1, *sizes, len(bias)], options)

    def dense(self, source: int, weights: Array, bias: Array, activation: int = NONE) -> int:
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        inputs = [source, self.constant(weights), self.constant(bias)]
        return self.operator("FULLY_CONNECTED", inputs, [1, len(bias)], options)

    def add(self, first: int, second: int, activation: int = NONE) -> int:
        options = schema.AddOptionsT()
        options.fusedActivationFunction = activation
        return self.operator("ADD", [first, second], self.graph.tensors[first].shape, options)

    def flatten(self, source: int) -> int:
        size = int(np.prod(self.graph.tensors[source].shape))
        options = schema.ReshapeOptionsT()
        options.newShape = [1, size]
        return self.operator("RESHAPE", [source, self.constant(np.asarray([1, size]))], [1, size], options)

    def pool(self, source: int, kind: str = "MAX_POOL_2D") -> int:
        _, height, width, channels = self.graph.tensors[source].shape
        options = schema.Pool2DOptionsT()
        options.padding, options.strideH, options.strideW = SAME, 2, 2
        options.filterHeight = options.filterWidth = 2
        return self.operator(kind, [source], [1, -(-height // 2), -(-width // 2), channels], options)

    def finish(self, *outputs: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [self.input], list(outputs)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0.0, 0.5, shape)


def dead(weights: Array, channels: Sequence[int], axis: int = 0) -> Array:
    """Return the weights with these output channels' at nothing."""
    changed = weights.copy()
    np.moveaxis(changed, axis, 0)[list(channels)] = 0.0
    return changed


def outputs_of(model: bytes, seed: int) -> list[Any]:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    drawn = [normal(seed, *spec.shape).astype(np.float32) * 4.0 for spec in interpreter.inputs]
    return interpreter.invoke(drawn)


def assert_same_function(before: bytes, after: bytes) -> None:
    for seed in range(3):
        for old, new in zip(outputs_of(before, seed), outputs_of(after, seed), strict=True):
            np.testing.assert_allclose(new, old, rtol=2e-6, atol=1e-5)


def widths(model: bytes) -> list[int]:
    facts = read_facts(model)
    return [facts.tensors[operator.outputs[0]].shape[-1] for operator in facts.operators]


def test_channels_without_weights_go_and_their_bias_moves_on() -> None:
    maker = GraphMaker(1, 6, 6, 2)
    hidden = maker.convolve(maker.input, dead(normal(1, 5, 3, 3, 2), [1, 3]), np.asarray([0.1, 0.7, 0.2, -0.4, 0.3]))
    model = maker.finish(maker.convolve(hidden, normal(2, 3, 1, 1, 5), normal(3, 3)))
    small, words = prune(model)
    assert widths(small) == [3, 3]
    assert words == ("CONV_2D 't3' lost 2 of 5 output channels, which are constant or read by nobody",)
    assert_same_function(model, small)


def test_a_padded_kernel_keeps_a_constant_that_its_border_would_tell_from_zero() -> None:
    for bias, width in ((0.7, 4), (-0.7, 3)):  # ReLU makes 0 of the second, as the padding is
        maker = GraphMaker(1, 6, 6, 2)
        hidden = maker.convolve(maker.input, dead(normal(1, 4, 1, 1, 2), [2]), np.full(4, bias))
        model = maker.finish(maker.convolve(hidden, normal(2, 3, 3, 3, 4), normal(3, 3), padding=SAME))
        small, _ = prune(model)
        assert widths(small) == [width, 3]
        assert_same_function(model, small)


def test_without_padding_any_constant_goes() -> None:
    maker = GraphMaker(1, 6, 6, 2)
    hidden = maker.convolve(maker.input, dead(normal(1, 4, 1, 1, 2), [2]), np.full(4, 0.7))
    model = maker.finish(maker.convolve(hidden, normal(2, 3, 3, 3, 4), normal(3, 3), padding=VALID))
    small, _ = prune(model)
    assert widths(small) == [3, 3]
    assert_same_function(model, small)


def test_a_depthwise_layer_without_weights_makes_a_living_channel_constant() -> None:
    maker = GraphMaker(1, 6, 6, 2)
    hidden = maker.convolve(maker.input, normal(1, 4, 1, 1, 2), normal(4, 4), activation=RELU6)
    deep = maker.convolve(hidden, dead(normal(2, 1, 3, 3, 4), [0, 3], axis=3), np.full(4, 0.5), depthwise=True)
    model = maker.finish(maker.convolve(deep, normal(3, 2, 1, 1, 4), normal(5, 2), activation=NONE))
    small, _ = prune(model)
    assert widths(small) == [2, 2, 2]
    assert_same_function(model, small)


def test_a_channel_that_relu_always_silences_goes_without_any_dead_weight() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    first = maker.convolve(maker.input, normal(1, 3, 1, 1, 2), normal(4, 3), activation=RELU)
    falling = normal(2, 4, 1, 1, 3)
    falling[1] = -np.abs(falling[1])
    second = maker.convolve(first, falling, np.asarray([0.1, -0.1, 0.2, 0.3]), activation=RELU)
    model = maker.finish(maker.convolve(second, normal(3, 2, 3, 3, 4), normal(5, 2)))
    small, _ = prune(model)
    assert widths(small) == [3, 3, 2]
    assert_same_function(model, small)


def test_a_channel_that_nobody_reads_goes_and_takes_its_makers_with_it() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    first = maker.convolve(maker.input, normal(1, 3, 3, 3, 2), normal(4, 3), activation=NONE)
    mixing = normal(2, 4, 1, 1, 3)
    mixing[[0, 2, 3], :, :, 1] = 0.0  # only channel 1 of the second layer reads channel 1 of the first
    second = maker.convolve(first, mixing, normal(6, 4), activation=NONE)
    reading = normal(3, 2, 1, 1, 4)
    reading[..., 1] = 0.0
    model = maker.finish(maker.convolve(second, reading, normal(5, 2)))
    small, _ = prune(model)
    assert widths(small) == [2, 3, 2]
    assert_same_function(model, small)


def test_through_a_residual_sum_both_sides_must_be_constant() -> None:
    for other, width in (([1, 2], 3), ([2], 4)):  # channel 1 of the other branch is dead, or alive
        maker = GraphMaker(1, 5, 5, 2)
        left = maker.convolve(maker.input, dead(normal(1, 4, 3, 3, 2), [1]), normal(4, 4))
        right = maker.convolve(maker.input, dead(normal(2, 4, 1, 1, 2), other), normal(5, 4))
        total = maker.add(left, right, RELU)
        model = maker.finish(maker.convolve(total, normal(3, 2, 1, 1, 4), normal(6, 2)))
        small, _ = prune(model)
        assert widths(small) == [width, width, width, 2]
        assert_same_function(model, small)


@pytest.mark.parametrize("pool", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_channels_pass_pools_and_a_flattening_reshape(pool: str) -> None:
    maker = GraphMaker(1, 7, 7, 1)
    hidden = maker.convolve(maker.input, dead(normal(1, 4, 3, 3, 1), [0, 2]), np.asarray([0.7, 0.1, -0.2, 0.3]))
    flat = maker.flatten(maker.pool(hidden, pool))
    model = maker.finish(maker.dense(flat, normal(2, 3, 64), normal(3, 3)))
    small, _ = prune(model)
    assert widths(small) == [2, 2, 32, 3]
    assert_same_function(model, small)


def test_one_channel_stays_where_all_are_constant() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    hidden = maker.convolve(maker.input, np.zeros((3, 1, 1, 2)), np.asarray([0.5, 0.2, 0.1]))
    model = maker.finish(maker.convolve(hidden, normal(2, 2, 1, 1, 3), normal(3, 2)))
    small, _ = prune(model)
    assert widths(small) == [1, 2]
    assert_same_function(model, small)


def test_what_an_application_or_another_operator_sees_stays_whole() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    hidden = maker.convolve(maker.input, dead(normal(1, 3, 1, 1, 2), [1]), np.full(3, 0.5))
    seen = maker.finish(maker.convolve(hidden, normal(2, 2, 1, 1, 3), normal(3, 2)), hidden)
    assert prune(seen) == (seen, ())
    maker = GraphMaker(1, 4, 4, 2)
    hidden = maker.convolve(maker.input, dead(normal(1, 3, 1, 1, 2), [1]), np.full(3, 0.5))
    squashed = maker.operator("LOGISTIC", [hidden], [1, 4, 4, 3])
    squeezed = maker.finish(maker.convolve(squashed, normal(2, 2, 1, 1, 3), normal(3, 2)))
    assert prune(squeezed) == (squeezed, ())


def test_weights_that_are_small_but_alive_stay() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    weights = normal(1, 3, 1, 1, 2)
    weights[1] *= 1e-6
    hidden = maker.convolve(maker.input, weights, np.full(3, 0.5))
    model = maker.finish(maker.convolve(hidden, normal(2, 2, 1, 1, 3), normal(3, 2)))
    assert prune(model) == (model, ())


def test_weights_and_biases_that_two_layers_share_are_not_cut_for_both() -> None:
    maker = GraphMaker(1, 4, 4, 4)
    shared = dead(normal(1, 4, 1, 1, 4), [1])
    first = maker.convolve(maker.input, shared, np.full(4, 0.5))
    second = maker.convolve(first, shared, np.full(4, 0.5), activation=RELU)
    model = maker.finish(maker.convolve(second, normal(2, 4, 1, 1, 4), normal(3, 4)))
    tree = read_model(model)
    one, other = tree.subgraphs[0].operators[:2]
    other.inputs = [other.inputs[0], *one.inputs[1:]]  # the same tensors
    model = bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
    small, _ = prune(model)
    assert widths(small) == [3, 3, 4]
    assert_same_function(model, small)


def test_not_finite_weights_prove_nothing() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    weights = dead(normal(1, 3, 1, 1, 2), [1])
    hidden = maker.convolve(maker.input, weights, np.full(3, 0.5))
    reading = normal(2, 2, 1, 1, 3)
    reading[0, 0, 0, 0] = np.nan
    model = maker.finish(maker.convolve(hidden, reading, normal(3, 2)))
    assert prune(model) == (model, ())


def test_a_function_without_followed_bounds_lets_unread_channels_go_only() -> None:
    maker = GraphMaker(1, 4, 4, 2)
    hidden = maker.convolve(maker.input, dead(normal(1, 3, 1, 1, 2), [1]), np.full(3, 0.5), activation=TANH)
    reading = normal(2, 2, 1, 1, 3)
    reading[..., 0] = 0.0
    model = maker.finish(maker.convolve(hidden, reading, normal(3, 2)))
    assert widths(prune(model)[0]) == [2, 2]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    taps=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    padding=st.tuples(*[st.sampled_from([SAME, VALID])] * 3),
    activation=st.tuples(*[st.sampled_from([NONE, RELU, RELU6])] * 3),
    stride=st.sampled_from([1, 2]),
    residual=st.booleans(),
)
def test_whatever_is_dead_the_function_stays(
    seed: int,
    channels: tuple[int, int],
    taps: tuple[int, int, int],
    padding: tuple[int, int, int],
    activation: tuple[int, int, int],
    stride: int,
    residual: bool,
) -> None:
    chance = np.random.default_rng(seed)
    some = lambda count: [n for n in range(count) if chance.random() < 0.4]  # noqa: E731
    maker = GraphMaker(1, 15, 14, 2)
    first, second = channels
    weights = dead(normal(seed, first, taps[0], taps[0], 2), some(first))
    hidden = maker.convolve(
        maker.input, weights, normal(seed + 1, first), padding=padding[0], activation=activation[0], stride=stride
    )
    deep = dead(normal(seed + 2, 1, taps[1], taps[1], first), some(first), axis=3)
    hidden = maker.convolve(
        hidden, deep, normal(seed + 3, first), padding=padding[1], activation=activation[1], depthwise=True
    )
    mixed = dead(normal(seed + 4, second, 1, 1, first), some(second))
    hidden = maker.convolve(hidden, mixed, normal(seed + 5, second), activation=activation[2])
    if residual:
        branch = dead(normal(seed + 6, second, 3, 3, second), some(second))
        hidden = maker.add(hidden, maker.convolve(hidden, branch, normal(seed + 7, second)), activation[0])
    last = normal(seed + 8, 3, taps[2], taps[2], second)
    last[..., some(second)] = 0.0
    model = maker.finish(maker.convolve(hidden, last, normal(seed + 9, 3), padding=padding[2], activation=NONE))
    small, words = prune(model)
    assert (small is model) == (words == ())
    assert_same_function(model, small)
    assert prune(small)[0] == small


@given(
    size=st.integers(1, 12),
    taps=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_windows_are_what_a_convolution_of_ones_sees(size: int, taps: int, stride: int, dilation: int) -> None:
    found = window_ranges(size, taps, stride=stride, dilation=dilation, same=True)
    reach = (taps - 1) * dilation + 1
    positions = -(-size // stride)
    pad = max((positions - 1) * stride + reach - size, 0) // 2
    seen = {
        tuple(tap for tap in range(taps) if 0 <= position * stride - pad + tap * dilation < size)
        for position in range(positions)
    }
    assert {tuple(range(*window)) for window in found} == seen


def test_models_without_dead_channels_come_back_byte_for_byte(shared_dir: Path) -> None:
    for path in (DIGITS, *(shared_dir / "models" / f"{n}.tflite" for n in ("ic_resnet8_float32", "vww_int8"))):
        model = path.read_bytes()
        assert prune(model)[0] is model


def test_visual_wake_words_keeps_a_sixth_of_its_weights_and_its_answers(shared_dir: Path) -> None:
    model = (shared_dir / "models" / "vww_float32.tflite").read_bytes()
    small, words = prune(model)
    before, after = (sum(layer.weights.size for layer in read_layers(data)) for data in (model, small))
    assert (before, len(words)) == (208_112, 9)
    assert after < before / 5
    for seed in range(2):
        drawn = [np.random.default_rng(seed).random((1, 96, 96, 3)).astype(np.float32)]
        old, new = (LiteRtInterpreter(data, kernels="reference").invoke(drawn)[0] for data in (model, small))
        np.testing.assert_allclose(new, old, atol=1e-6)
