# SPDX-License-Identifier: Apache-2.0
"""Models in every mode, made with the quantizer's own recipes from the digits example and the shared models."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks import runtime_matrix
from benchmarks.runtime_matrix import Subject
from edgefleet.contracts.errors import MissingExtraError
from edgefleet.contracts.manifest import RuntimeKind
from edgefleet.runtimes.oracle import oracle_tool

SubjectOf = Callable[[str], Subject]
ModelOf = Callable[[Subject, str], bytes]
#: Enough to tell right from wrong; the benchmark takes more.
_FEW = 10


@pytest.fixture(scope="session")
def subject_of(request: pytest.FixtureRequest) -> SubjectOf:
    """A float model by its name; a shared one that is missing skips the test."""
    known = {"digits": runtime_matrix.digits(100)}
    known["digits, matmul"] = replace(
        known["digits"], name="digits, matmul", model=with_matmul(known["digits"].model), ranges={}
    )

    def find(name: str) -> Subject:
        if name not in known:
            folder: Path = request.getfixturevalue("shared_dir")
            assert folder == runtime_matrix.SHARED
            known.update({subject.name: subject for subject in runtime_matrix.shared(_FEW)})
        return known[name]

    return find


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """A subject in a mode, with its versions written."""
    made: dict[tuple[str, str], bytes | None] = {}

    def make(subject: Subject, mode: str) -> bytes:
        key = (subject.name, mode)
        if key not in made:
            made[key] = runtime_matrix.make(subject, mode)
        model = made[key]
        if model is None:
            pytest.skip(f"{subject.name} has no operator that could be {mode}")
        return model

    return make


@pytest.fixture(scope="session")
def needs() -> Callable[[RuntimeKind], None]:
    """Skip where a runtime is not installed."""

    @cache
    def missing(kind: RuntimeKind) -> str | None:
        try:
            oracle_tool(kind)
        except MissingExtraError as error:
            return error.message
        return None

    def check(kind: RuntimeKind) -> None:
        if (message := missing(kind)) is not None:
            pytest.skip(message)

    return check


def with_matmul(model: bytes) -> bytes:
    """Return digits with its dense layer as a product of matrices, without the bias."""

    def change(tree: Any) -> None:
        graph = tree.subgraphs[0]
        dense = next(o for o in graph.operators if _code(tree, o) == schema.BuiltinOperator.FULLY_CONNECTED)
        weights = graph.tensors[dense.inputs[1]]
        _set_values(tree, weights, _values(tree, weights).T)
        dense.inputs = np.array(dense.inputs[:2], np.int32)
        _become(tree, dense, "BATCH_MATMUL", schema.BatchMatMulOptionsT())

    return _changed(model, change)


def _become(tree: Any, operator: Any, name: str, options: Any) -> None:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1
    tree.operatorCodes.append(code)
    operator.opcodeIndex = len(tree.operatorCodes) - 1
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    operator.builtinOptions = options


def _code(tree: Any, operator: Any) -> int:
    code = tree.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _values(tree: Any, tensor: Any) -> np.ndarray:
    return np.frombuffer(bytes(tree.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)


def _set_values(tree: Any, tensor: Any, values: np.ndarray) -> None:
    tree.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    tensor.shape = np.array(values.shape, np.int32)


def _changed(model: bytes, change: Callable[[Any], None]) -> bytes:
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
