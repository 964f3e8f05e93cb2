# SPDX-License-Identifier: Apache-2.0
"""Graphs that no exporter writes: the generator writes code, or says in one sentence what it cannot take."""

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.operator_cases.drawing import Draw
from benchmarks.operator_cases.rows import ROWS
from converter.c.core.constant_channels import without_constant_channels
from converter.c.core.lowering import check_ends, lower_graph
from converter.c.core.memory_plan import plan_memory
from converter.c.core.program import Graph, Operator, Target, Value
from edgefleet.contracts.errors import UnsupportedModelError

_NUMBERS = (-1, 0, 1, 2, 5, 99, 1 << 20)
_SCALES = ((), (0.0,), (float("inf"),), (float("nan"),), (1e-30,), (1e30,), (0.1, 0.2))
_TYPES = ("int8", "int32", "float32", "int16", "resource", "int4", "bool")


class _Damage:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def graph(self, graph: Graph) -> Graph:
        values, operators = dict(graph.values), list(graph.operators)
        for _ in range(self.random.randint(1, 3)):
            place = self.random.randrange(len(operators))
            number = self.random.choice(list(values))
            if self.random.random() < 0.5:
                operators[place] = self._operator(operators[place], list(values))
            else:
                values[number] = self._value(values[number])
        return replace(graph, values=values, operators=tuple(operators))

    def _operator(self, operator: Operator, numbers: list[int]) -> Operator:
        inputs, options = list(operator.inputs), dict(operator.options)
        kind = self.random.randint(0, 4)
        if kind == 0:
            return replace(operator, options={})
        if kind == 1 and options:
            options[self.random.choice(list(options))] = self.random.choice(_NUMBERS)
            return replace(operator, options=options)
        if kind == 2 and inputs:
            inputs.pop(self.random.randrange(len(inputs)))
        elif inputs and kind == 3:
            inputs[self.random.randrange(len(inputs))] = self.random.choice([-1, 10**6, *numbers])
        else:
            return replace(operator, outputs=self.random.choice([(), operator.outputs[:1], (numbers[0], numbers[-1])]))
        return replace(operator, inputs=tuple(inputs))

    def _value(self, value: Value) -> Value:
        kind = self.random.randint(0, 4)
        if kind == 0:
            shape = [self.random.choice([0, 1, 2, 7, size]) for size in value.shape]
            return self._reshaped(value, self.random.choice([shape, [*value.shape, 2], list(value.shape[1:])]))
        if kind == 1:
            return replace(value, scales=self.random.choice(_SCALES))
        if kind == 2:
            return replace(value, zero_point=self.random.choice([-129, 128, 10**6, -5]))
        if kind == 3:
            return replace(value, dtype=self.random.choice(_TYPES))
        return replace(value, data=None) if value.data is not None else value

    @staticmethod
    def _reshaped(value: Value, shape: list[int]) -> Value:
        data: Any = None if value.data is None else np.resize(value.data, shape)
        return replace(value, shape=tuple(shape), data=data)


@pytest.mark.parametrize("kernel_set", ["portable", "dsp", "helium"])
def test_damage_is_refused_and_nothing_else_is_raised(kernel_set: Any) -> None:
    tried = written = 0
    for row, draw_case in ROWS.items():
        for seed in range(6):
            damage = _Damage(len(row) * 100 + seed)
            graph = damage.graph(draw_case(Draw(seed)).graph)
            target = Target(damage.random.choice(["tflm/1", "litert/1"]), kernel_set)
            with suppress(UnsupportedModelError):
                tried += 1
                check_ends(graph)
                plan_memory(lower_graph(without_constant_channels(graph, target).graph, target))
                written += 1
    assert 20 < written < tried - 60
