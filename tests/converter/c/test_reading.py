# SPDX-License-Identifier: Apache-2.0
"""Flatbuffers that cannot become constant C are refused in one sentence; constants come as they are meant."""

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from converter.adapters.flatbuffers.reading import read_model
from converter.c.reading import read_graph
from edgefleet.contracts.errors import UnsupportedModelError

Tree = Any


def _model() -> bytes:
    graph = GraphWriter()
    given, added, made = (graph.tensor([1, 3], 0.1, 3) for _ in range(3))
    constant = graph.tensor([1, 3], 0.1, 3, data=np.array([[1, 2, 3]], np.int8))
    graph.operator("ADD", [given, constant], [added])
    graph.operator("RELU", [added], [made])
    return flatbuffer(graph.case("probe", [{given: np.zeros((1, 3), np.int8)}], [made]).graph)


def _changed(change: Callable[[Tree], None]) -> bytes:
    tree = read_model(_model())
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _dynamic(tree: Tree) -> None:
    tree.subgraphs[0].tensors[0].shapeSignature = np.array([-1, -1], np.int32)


def _sparse(tree: Tree) -> None:
    tree.subgraphs[0].tensors[3].sparsity = schema.SparsityParametersT()


def _two_zero_points(tree: Tree) -> None:
    tree.subgraphs[0].tensors[0].quantization.zeroPoint = np.array([1, 2], np.int64)


def _short_constant(tree: Tree) -> None:
    tree.buffers[tree.subgraphs[0].tensors[3].buffer].data = np.zeros(2, np.uint8)


def _another_subgraph(tree: Tree) -> None:
    tree.subgraphs.append(tree.subgraphs[0])


def _out_of_order(tree: Tree) -> None:
    tree.subgraphs[0].operators.reverse()


def _twice(tree: Tree) -> None:
    tree.subgraphs[0].operators[1].outputs = np.array([1], np.int32)


def _no_such_tensor(tree: Tree) -> None:
    tree.subgraphs[0].operators[1].outputs = np.array([77], np.int32)


def _no_such_code(tree: Tree) -> None:
    tree.subgraphs[0].operators[1].opcodeIndex = 9


def _vast_zero_point(tree: Tree) -> None:
    tree.subgraphs[0].tensors[0].quantization.zeroPoint = np.array([1 << 40], np.int64)


def _no_tensors(tree: Tree) -> None:
    tree.subgraphs[0].tensors = None


def _output_of_nobody(tree: Tree) -> None:
    tree.subgraphs[0].operators.pop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_dynamic, "the tensor 't0' has a dynamic shape (-1x-1); C needs fixed ones"),
        (_sparse, "the tensor 't3' is sparse"),
        (
            _vast_zero_point,
            "the model contradicts itself: the zero point of its tensor 't0' is 1099511627776, which no type has",
        ),
        (_no_tensors, "the model contradicts itself: its operator 0 (ADD) reads tensor 3 before it is computed"),
        (_two_zero_points, "the tensor 't0' has several zero points, and TFLite's specification allows one"),
        (_short_constant, "the model contradicts itself: its constant 't3' has 2 bytes, expected 3"),
        (
            _another_subgraph,
            "the model has 1 more subgraph than CALL_ONCE names, and C is written for one graph without branches and "
            "loops",
        ),
        (_out_of_order, "the model contradicts itself: its operator 0 (RELU) reads tensor 1 before it is computed"),
        (_twice, "the model contradicts itself: its operator 1 (RELU) writes tensor 1, which is there already"),
        (_no_such_tensor, "the model contradicts itself: its operator 1 (RELU) writes tensor 77, which is not there"),
        (_no_such_code, "the model contradicts itself: its operator 1 has the code 9, which is not there"),
        (_output_of_nobody, "the model contradicts itself: its output tensor 2 is computed by no operator"),
    ],
)
def test_what_cannot_be_constant_c_is_refused(change: Callable[[Tree], None], message: str) -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        read_graph(_changed(change))
    assert refusal.value.message == message


def test_constants_of_four_bits_come_as_whole_numbers() -> None:
    graph = GraphWriter()
    given, made = graph.tensor([1, 3], 0.1, 3), graph.tensor([1, 1], 0.1, 3)
    weights = graph.tensor([1, 3], 0.1, dtype="int4", data=np.array([[-8, 7, -1]], np.int8))
    graph.operator("FULLY_CONNECTED", [given, weights, -1], [made])
    case = graph.case("probe", [{given: np.zeros((1, 3), np.int8)}], [made])
    value = read_graph(flatbuffer(case.graph)).values[weights]
    assert value.data is not None
    assert (value.dtype, value.data.tolist()) == ("int4", [[-8, 7, -1]])


def test_a_graph_is_what_was_written() -> None:
    read = read_graph(_model())
    assert [(each.name, each.inputs, each.outputs) for each in read.operators] == [
        ("ADD", (0, 3), (1,)),
        ("RELU", (1,), (2,)),
    ]
    assert (read.inputs, read.outputs) == ((0,), (2,))
    assert (read.values[0].name, read.values[0].shape, read.values[0].zero_point) == ("t0", (1, 3), 3)
    assert read.operators[0].options["fusedActivationFunction"] == 0
