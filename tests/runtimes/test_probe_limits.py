# SPDX-License-Identifier: Apache-2.0
"""What a probed model may take: a model that never ends, or that takes all memory, is one sentence."""

import signal
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgefleet.contracts.errors import ModelFailedError, UnsupportedModelError
from edgefleet.runtimes import probe


def tensor(shape: list[int], kind: int, buffer: int = 0) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = b"t", shape, kind, buffer
    return made


def operator(code: int, inputs: list[int], outputs: list[int]) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
    return made


def graph(tensors: list[Any], operators: list[Any], inputs: list[int], outputs: list[int]) -> Any:
    made = schema.SubGraphT()
    made.tensors, made.operators, made.inputs, made.outputs = tensors, operators, inputs, outputs
    return made


def packed(codes: list[int], graphs: list[Any], constants: list[bytes]) -> bytes:
    made = schema.ModelT()
    made.version, made.subgraphs, made.operatorCodes, made.buffers = 3, graphs, [], [schema.BufferT()]
    for number in codes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        made.operatorCodes.append(code)
    for constant in constants:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(constant, np.uint8)
        made.buffers.append(buffer)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(made))


def endless() -> bytes:
    """WHILE x <= x: x = x + x."""
    codes = [schema.BuiltinOperator.WHILE, schema.BuiltinOperator.LESS_EQUAL, schema.BuiltinOperator.ADD]
    loop = operator(0, [0], [1])
    loop.builtinOptionsType, loop.builtinOptions = schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT()
    loop.builtinOptions.condSubgraphIndex, loop.builtinOptions.bodySubgraphIndex = 1, 2
    add = operator(2, [0, 0], [1])
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    number, truth = schema.TensorType.FLOAT32, schema.TensorType.BOOL
    return packed(
        codes,
        [
            graph([tensor([1], number), tensor([1], number)], [loop], [0], [1]),
            graph([tensor([1], number), tensor([1], truth)], [operator(1, [0, 0], [1])], [0], [1]),
            graph([tensor([1], number), tensor([1], number)], [add], [0], [1]),
        ],
        [],
    )


def enormous() -> bytes:
    """RESIZE_NEAREST_NEIGHBOR to 2^36 pixels."""
    resize = operator(0, [0, 1], [2])
    resize.builtinOptionsType = schema.BuiltinOptions.ResizeNearestNeighborOptions
    resize.builtinOptions = schema.ResizeNearestNeighborOptionsT()
    number = schema.TensorType.FLOAT32
    tensors = [tensor([1, 1, 1, 1], number), tensor([2], schema.TensorType.INT32, 1), tensor([1, 1, 1, 1], number)]
    size = np.array([1 << 18, 1 << 18], "<i4").tobytes()
    return packed([schema.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR], [graph(tensors, [resize], [0], [2])], [size])


def test_a_model_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_TIME_S", 0.5)
    with pytest.raises(ModelFailedError) as refused:
        probe.probe_in_fork(endless(), kernels="reference")
    assert refused.value.message == "the model takes too long for a single inference, or never ends"


def test_a_model_that_takes_all_memory() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        probe.probe_in_fork(enormous(), kernels="reference")
    assert refused.value.message.startswith("LiteRT cannot load the model: ")


def test_larger_models_and_inputs_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda _, seconds: given.append(seconds))
    monkeypatch.setattr(probe.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(probe.ctypes, "CDLL", lambda _: None)
    probe._limit_means(bytes(3 << 20))
    assert given == [7.0]
