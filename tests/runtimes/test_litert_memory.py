# SPDX-License-Identifier: Apache-2.0
"""A tensor is used in place only where it never moves, and then the answers are those of copied tensors."""

from collections.abc import Callable

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks.operator_models import Constant, SingleOperator, build
from edgefleet.runtimes.litert import LiteRtInterpreter

RESHAPE, ADD, SHAPE = (schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.ADD, schema.BuiltinOperator.SHAPE)
FLOAT, WHOLE = schema.TensorType.FLOAT32, schema.TensorType.INT32
Operator = tuple[int, list[int], list[int]]


def reshaping_model(*operators: Operator) -> bytes:
    """Tensors: 0 the input [2, 3], 1 the output, 2 and 3 constants that add up to [3, 2], 4 a computed shape,
    5 the constant [3, 2]."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT() for _ in range(4)]
    for buffer, value in ((1, [1, 1]), (2, [2, 1]), (3, [3, 2])):
        model.buffers[buffer].data = np.frombuffer(np.array(value, np.int32).tobytes(), np.uint8)
    graph = schema.SubGraphT()
    graph.tensors = []
    for shape, kind, buffer in (
        ([2, 3], FLOAT, 0),
        ([3, 2], FLOAT, 0),
        ([2], WHOLE, 1),
        ([2], WHOLE, 2),
        ([2], WHOLE, 0),
        ([2], WHOLE, 3),
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"t{len(graph.tensors)}".encode(), shape, kind, buffer
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs, graph.operators, model.operatorCodes = [0], [1], [], []
    for place, (code, inputs, outputs) in enumerate(operators):
        operator, known = schema.OperatorT(), schema.OperatorCodeT()
        operator.opcodeIndex, operator.inputs, operator.outputs = place, inputs, outputs
        known.builtinCode = known.deprecatedBuiltinCode = code
        known.version = 1
        if code == SHAPE:
            operator.builtinOptionsType, operator.builtinOptions = (
                schema.BuiltinOptions.ShapeOptions,
                schema.ShapeOptionsT(),
            )
            operator.builtinOptions.outType = WHOLE
        if code == ADD:
            operator.builtinOptionsType, operator.builtinOptions = (
                schema.BuiltinOptions.AddOptions,
                schema.AddOptionsT(),
            )
        graph.operators.append(operator)
        model.operatorCodes.append(known)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_what_is_written_in_place_is_answered_as_what_is_copied(
    digits_model: bytes, digits_samples: np.ndarray
) -> None:
    model, copying = LiteRtInterpreter(digits_model), LiteRtInterpreter(digits_model)
    assert model.direct is not None
    place = model.direct.taken
    for sample in digits_samples:
        place[...] = sample
        np.testing.assert_array_equal(model.invoke([place])[0], copying.invoke([sample])[0])


def test_quantized_models_have_their_input_in_place_too(shared_model: Callable[[str], bytes]) -> None:
    for name in ("kws_int8.tflite", "vww_int8.tflite"):
        model = LiteRtInterpreter(shared_model(name))
        assert model.direct is not None
        assert (model.direct.taken.shape, model.direct.taken.dtype.name) == (
            model.inputs[0].shape,
            model.inputs[0].dtype,
        )


@pytest.mark.parametrize(
    ("operators", "stays"),
    [
        pytest.param([(ADD, [0, 0], [1])], True, id="sizes follow from sizes"),
        pytest.param([(RESHAPE, [0, 5], [1])], True, id="a shape that is constant"),
        pytest.param([(ADD, [2, 3], [4]), (RESHAPE, [0, 4], [1])], False, id="a shape that is computed"),
        pytest.param([(SHAPE, [0], [4]), (RESHAPE, [0, 4], [1])], False, id="an operator that is not known to"),
    ],
)
def test_a_model_that_may_plan_its_memory_anew_is_given_copies(operators: list[Operator], *, stays: bool) -> None:
    model = LiteRtInterpreter(reshaping_model(*operators), kernels="reference")
    assert (model.direct is not None) is stays
    sample = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = model.invoke([sample])[0].copy()
    model.invoke([sample + 1])
    np.testing.assert_array_equal(model.invoke([sample])[0], first)


def test_a_number_without_axes_is_no_place_to_look_at() -> None:
    whole = SingleOperator(
        "SUM",
        ((2, 3), Constant(np.array([0, 1], np.int32))),
        ((),),
        "ReducerOptions",
        {"keepDims": False},
        (-6.0, 6.0),
    )
    model = LiteRtInterpreter(build(whole, "float32"))
    assert model.direct is None
    for sample in (np.ones((2, 3), np.float32), np.full((2, 3), 2.0, np.float32)):
        (total,) = model.invoke([sample])
        assert (total.shape, float(total)) == ((), float(sample.sum()))
