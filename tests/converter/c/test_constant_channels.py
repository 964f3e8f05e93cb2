# SPDX-License-Identifier: Apache-2.0
"""Channels that never change leave the code, and no answer changes: random networks with dead channels of all kinds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.operator_cases.case import Case, GraphWriter, flatbuffer
from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.host_kernels import HostKernels, Program, build, lowered
from benchmarks.operator_cases.oracles import NUMERICS, answers
from converter.c.core.constant_channels import Narrowed, without_constant_channels
from converter.c.core.lowering import LOWERINGS
from converter.c.core.program import Graph, Target
from edgefleet.contracts.manifest import Numerics

Array = npt.NDArray[Any]
_SCALE, _DEAD_SCALE = 0.05, 2.0**-24
_CHANNELS = 12


class _Net:
    """A network in the making: layers with weights lose some of their channels to constants."""

    def __init__(self, seed: int) -> None:
        self.draw, self.graph = Draw(seed), GraphWriter()

    def tensor(self, shape: list[int]) -> int:
        return self.graph.tensor(shape, _SCALE, self.draw.one_of((-128, 3)))

    def layer(self, name: str, given: int, weights: list[int], made: list[int], axis: int, **options: int) -> int:
        """Add a layer; half of its channels are constants, some of them the zero point."""
        draw, channels = self.draw, weights[axis]
        out = self.tensor(made)
        zero = self.graph.values[out].zero_point
        dead = draw.random.random(channels) < 0.5
        answers_of = np.where(draw.random.random(channels) < 0.6, zero, np.clip(zero + draw.size(-90, 90), -128, 127))
        scales = np.where(dead, _DEAD_SCALE, draw.random.uniform(0.002, 0.01, channels))
        bias = np.where(dead, (answers_of - zero) / _DEAD_SCALE, draw.random.integers(-4000, 4000, channels))
        filters = self.graph.tensor(
            weights, scales, data=draw.random.integers(-127, 128, weights).astype(np.int8), channel_axis=axis
        )
        biases = self.graph.tensor([channels], scales * _SCALE, dtype="int32", data=bias.astype(np.int32))
        self.graph.operator(name, [given, filters, biases], [out], **options)
        return out

    def conv2d(self, given: int, kernel: int, channels: int = _CHANNELS) -> int:
        batches, height, width, in_c = self.graph.values[given].shape
        made = [batches, height, width, channels]
        return self.layer("CONV_2D", given, [channels, kernel, kernel, in_c], made, 0, padding=0, strideH=1, strideW=1)

    def depthwise(self, given: int) -> int:
        shape = list(self.graph.values[given].shape)
        options = {"padding": 0, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
        return self.layer("DEPTHWISE_CONV_2D", given, [1, 3, 3, shape[3]], shape, 3, **options)

    def head(self, given: int) -> int:
        _, height, width, channels = self.graph.values[given].shape
        ends = self.graph.values[given].scales[0], self.graph.values[given].zero_point
        pooled, flat = self.graph.tensor([1, 1, 1, channels], *ends), self.graph.tensor([1, channels], *ends)
        sizes = {"filterHeight": height, "filterWidth": width, "strideH": 1, "strideW": 1, "padding": 1}
        self.graph.operator("AVERAGE_POOL_2D", [given], [pooled], **sizes)
        self.graph.operator("RESHAPE", [pooled, self.graph.integers([1, channels])], [flat])
        made = self.tensor([1, 5])
        filters = self.graph.tensor([5, channels], 0.01, data=self.draw.bytes([5, channels]))
        biases = self.graph.tensor([5], 0.0005, dtype="int32", data=np.zeros(5, np.int32))
        self.graph.operator("FULLY_CONNECTED", [flat, filters, biases], [made])
        return made


def _separable(net: _Net, x: int) -> int:
    return net.head(net.conv2d(net.depthwise(net.conv2d(x, 3)), 1))


def _wide(net: _Net, x: int) -> int:
    return net.head(net.conv2d(net.conv2d(x, 1), 3))


def _twice_read(net: _Net, x: int) -> int:
    """One reader can do without channels, the other (a sum) cannot: nothing goes."""
    first = net.conv2d(x, 1)
    second, summed = net.conv2d(first, 1), net.tensor([1, 6, 6, _CHANNELS])
    net.graph.operator("ADD", [first, second], [summed])
    return net.head(summed)


def _deep(net: _Net, x: int) -> int:
    for _ in range(3):
        x = net.depthwise(net.conv2d(x, net.draw.one_of((1, 3))))
    return net.head(net.conv2d(x, 1, 8))


_NETS: list[Callable[[_Net, int], int]] = [_separable, _wide, _twice_read, _deep]


def _case(build_net: Callable[[_Net, int], int], seed: int) -> Case:
    net = _Net(seed)
    given = net.graph.tensor([1, 6, 6, 3], _SCALE, 7)
    made = build_net(net, given)
    return net.graph.case("net", [{given: net.draw.bytes([1, 6, 6, 3])} for _ in range(4)], [made])


def _ours(kernels: HostKernels, graph: Graph, case: Case, target: Target) -> list[list[Array]]:
    return kernels.run(Program(graph, lowered(graph, target, LOWERINGS)), case.steps)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return HostKernels(build(Path(tmp_path_factory.mktemp("kernels"))))


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("build_net", _NETS)
def test_no_answer_changes(kernels: HostKernels, build_net: Callable[[_Net, int], int], numerics: Numerics) -> None:
    removed, seen = 0, set()
    for seed in range(4):
        case, target = _case(build_net, seed), Target(numerics, "portable")
        slimmed = without_constant_channels(case.graph, target)
        removed += sum(len(narrowed.constants) for narrowed in slimmed.narrowed.values())
        wanted = answers(flatbuffer(case.graph), numerics, case.steps)
        seen |= {answer[0].tobytes() for answer in wanted}
        for got, want in zip(_ours(kernels, slimmed.graph, case, target), wanted, strict=True):
            np.testing.assert_array_equal(got[0], want[0])
        _check_widened(kernels, case, target, slimmed.graph, slimmed.narrowed)
    assert removed == 0 if build_net is _twice_read else removed > 10
    assert len(seen) > 8


def _check_widened(
    kernels: HostKernels, case: Case, target: Target, slim: Graph, narrowed: dict[int, Narrowed]
) -> None:
    """Every narrowed value, with its constants put back, is what the whole graph computes."""
    if narrowed:
        numbers = tuple(narrowed)
        whole = _ours(kernels, replace(case.graph, outputs=numbers), case, target)
        parts = _ours(kernels, replace(slim, outputs=numbers), case, target)
        for wanted, got in zip(whole, parts, strict=True):
            for number, want, part in zip(numbers, wanted, got, strict=True):
                np.testing.assert_array_equal(narrowed[number].widened(part), want)


def test_live_channels_stay_in_fours_and_outputs_stay_whole() -> None:
    target = Target("tflm/1", "portable")
    for seed in range(10):
        case = _case(_deep, seed)
        kept = [len(one.kept) for one in without_constant_channels(case.graph, target).narrowed.values()]
        assert all(count % 4 == 0 and count for count in kept)
        everything = replace(case.graph, outputs=tuple(n for n, v in case.graph.values.items() if v.data is None))
        assert not without_constant_channels(everything, target).narrowed


def test_a_wider_window_keeps_constants_that_are_not_the_zero_point() -> None:
    target = Target("tflm/1", "portable")
    for seed in range(10):
        case = _case(_wide, seed)
        for number, narrowed in without_constant_channels(case.graph, target).narrowed.items():
            (reader,) = (operator for operator in case.graph.operators if number in operator.inputs)
            if reader.name == "CONV_2D" and case.graph.values[reader.inputs[1]].shape[1:3] == (3, 3):
                assert set(narrowed.constants.values()) <= {case.graph.values[number].zero_point}
