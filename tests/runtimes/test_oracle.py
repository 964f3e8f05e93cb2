# SPDX-License-Identifier: Apache-2.0
"""Whatever the runtime, an oracle is opened, asked and named in the same way."""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import get_args

import numpy as np
import pytest

from edgefleet.contracts.errors import MissingExtraError, ModelFailedError
from edgefleet.contracts.manifest import RuntimeKind, TensorSpec, Tool
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.oracle import Agreement, Interpreter, check_runs_right, compare, open_oracle, oracle_tool
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


class Scripted:
    """An interpreter that gives answers that were written down."""

    def __init__(self, *answers: list[float]) -> None:
        self.inputs = (TensorSpec(name="x", shape=(1, 1), dtype="float32"),)
        self.outputs = (TensorSpec(name="y", shape=(1, len(answers[0])), dtype="float32"),)
        self._answers = iter(answers)

    def invoke(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.array([next(self._answers)], np.float32)]

    def reset_state(self) -> None:
        raise AssertionError("nobody asked for it")


NOTHING = [np.zeros((1, 1), np.float32)]


@pytest.mark.parametrize(
    ("got", "wanted", "expected"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]], Agreement(2, 0, 0.0)),
        ([[0.1, 0.9], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]], Agreement(2, 1, 0.5657 / 0.3536)),
        ([[0.49, 0.51], [0.0, 1.0]], [[0.51, 0.49], [0.0, 1.0]], Agreement(2, 0, 0.01414 / 0.3536)),  # no clear lead
        ([[0.5, 0.6]], [[0.5, 0.5]], Agreement(1, 0, np.inf)),
        ([[np.inf, 0.0]], [[1.0, 0.0]], Agreement(1, 0, np.inf)),
    ],
)
def test_agreement_counts_clear_classes_and_weighs_differences_by_the_spread(
    got: list[list[float]], wanted: list[list[float]], expected: Agreement
) -> None:
    found = compare(Scripted(*got), Scripted(*wanted), [NOTHING] * len(got))
    assert found[:2] == expected[:2]
    assert found.difference == pytest.approx(expected.difference, rel=0.01)


def test_the_reference_kernels_agree_with_themselves(digits_model: bytes, digits_samples: np.ndarray) -> None:
    inputs = [[sample] for sample in digits_samples]
    found = check_runs_right(digits_model, kind="litert", task="classification", inputs=inputs, kernels="reference")
    assert found == Agreement(8, 0, 0.0)


def test_nothing_to_compare_is_no_agreement(digits_model: bytes) -> None:
    with pytest.raises(ModelFailedError) as failed:
        check_runs_right(digits_model, kind="litert", task="classification", inputs=[])
    assert failed.value.message == "there is no sample to compare two runtimes on"
