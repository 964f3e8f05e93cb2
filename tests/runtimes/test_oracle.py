# SPDX-License-Identifier: Apache-2.0
"""Whatever the runtime, an oracle is opened, asked and named in the same way."""

from importlib.metadata import version
from importlib.util import find_spec
from typing import get_args

import numpy as np
import pytest

from edgefleet.contracts.errors import MissingExtraError
from edgefleet.contracts.manifest import RuntimeKind, Tool
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.oracle import Interpreter, open_oracle, oracle_tool
from edgefleet.runtimes.tflite_runtime import TfliteRuntimeInterpreter
from edgefleet.runtimes.tflm import TflmInterpreter

CLASSES = {"litert": LiteRtInterpreter, "tflite-runtime": TfliteRuntimeInterpreter, "tflm": TflmInterpreter}


@pytest.fixture(params=get_args(RuntimeKind))
def kind(request: pytest.FixtureRequest) -> RuntimeKind:
    try:
        oracle_tool(request.param)
    except MissingExtraError as error:
        pytest.skip(error.message)
    found: RuntimeKind = request.param
    return found


def test_every_runtime_gives_the_same_answers_to_the_same_float_model(
    kind: RuntimeKind, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    oracle: Interpreter = open_oracle(digits_model, kind=kind, kernels="reference")
    assert type(oracle) is CLASSES[kind]
    expected = LiteRtInterpreter(digits_model, kernels="reference")
    assert (oracle.inputs, oracle.outputs) == (expected.inputs, expected.outputs)
    for sample in digits_samples:
        np.testing.assert_allclose(oracle.invoke([sample])[0], expected.invoke([sample])[0], rtol=0, atol=1e-5)


def test_the_package_behind_a_runtime_is_named(kind: RuntimeKind) -> None:
    names = {"litert": "ai-edge-litert", "tflm": "tflite-micro"}
    installed = "2.14.0" if kind == "tflite-runtime" else version(names[kind])
    assert oracle_tool(kind) == Tool(name=names.get(kind, kind), version=installed)


def test_all_kinds_are_known() -> None:
    assert set(CLASSES) == set(get_args(RuntimeKind))
    assert find_spec("ai_edge_litert") is not None
