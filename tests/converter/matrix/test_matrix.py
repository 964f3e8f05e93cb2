# SPDX-License-Identifier: Apache-2.0
"""Every mode on every runtime is right or refused, and what is right stays as it was seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks.runtime_matrix import COLUMNS, Subject, cell
from converter.adapters.flatbuffers.reading import read_facts
from converter.core.board.runtime_rules import MEASURED, TFLM_OPERATORS, first_refusal
from edgefleet.contracts.errors import ModelFailedError, UnsupportedModelError
from edgefleet.contracts.manifest import RuntimeKind
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.oracle import open_oracle

#: The runtimes on which each mode runs right; the others refuse it.
RIGHT_ON: dict[str, tuple[RuntimeKind, ...]] = {
    "float32": ("litert", "tflite-runtime", "tflm"),
    "float16": ("litert", "tflite-runtime"),
    "dynamic-int8": ("litert",),
    "dynamic-int8, dense per tensor": ("litert", "tflite-runtime"),
    "int8": ("litert", "tflite-runtime", "tflm"),
    "int16x8": ("litert", "tflite-runtime", "tflm"),
    "int4 (CONV_2D)": ("litert", "tflite-runtime", "tflm"),
    "weight-only int8": ("litert", "tflite-runtime"),
    "weight-only int8 per tensor": ("litert", "tflite-runtime", "tflm"),
}
#: Modes that a runtime needs where the plain one is refused; digits stand for all there.
_ELSEWHERE = ("dynamic-int8, dense per tensor", "weight-only int8 per tensor")
CELLS = [
    (name, mode)
    for name in ("digits", "vww", "ic", "ad")
    for mode in RIGHT_ON
    if not ((mode in _ELSEWHERE and name != "digits") or (name, mode) == ("ad", "int4 (CONV_2D)"))
]
PRECISIONS = {
    "float32": "float32",
    "float16": "float16",
    "dynamic-int8": "dynamic-int8",
    "dynamic-int4": "dynamic-int4",
    "weight-only int8": "dynamic-int8",
    "weight-only int4": "dynamic-int4",
    "int8": "int8",
    "int16x8": "int16x8",
    "int4 (CONV_2D)": "int4",
    "int4 (dense per channel)": "int4",
    "int4 under int16 (CONV_2D)": "mixed",
    "mixed (dense in int16x8)": "mixed",
}


@pytest.mark.parametrize(("name", "mode"), CELLS)
@pytest.mark.parametrize(("kind", "kernels"), COLUMNS, ids=[f"{kind} {kernels}" for kind, kernels in COLUMNS])
def test_a_cell_is_right_or_refused(
    kind: RuntimeKind,
    kernels: Kernels,
    name: str,
    mode: str,
    subject_of: Callable[[str], Subject],
    model_of: Callable[[Subject, str], bytes],
    needs: Callable[[RuntimeKind], None],
) -> None:
    subject = subject_of(name)
    model = model_of(subject, mode)
    if kind not in RIGHT_ON[mode]:
        refusal = first_refusal(read_facts(model), kind, MEASURED[kind])
        assert refusal is not None
        assert refusal.operator in ("CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED")
        return
    needs(kind)
    found = cell(subject, model, kind, kernels)
    assert found.refusal is None
    assert found.said == ""
    assert found.right, f"scores {found.score}, the mode's reference {found.reference}"


@pytest.mark.parametrize("mode", PRECISIONS)
def test_each_mode_is_told_by_its_name(
    mode: str, subject_of: Callable[[str], Subject], model_of: Callable[[Subject, str], bytes]
) -> None:
    assert read_facts(model_of(subject_of("digits"), mode)).precision() == PRECISIONS[mode]


@pytest.mark.parametrize("name", ["kws_int8", "vww_int8", "ic_resnet8_int8", "ad_int8"])
@pytest.mark.parametrize(("kind", "worst"), [("tflite-runtime", 64), ("tflm", 4)])
def test_models_that_tensorflow_quantized_run_right_as_they_are(
    kind: RuntimeKind, worst: int, name: str, shared_dir: Path, needs: Callable[[RuntimeKind], None]
) -> None:
    needs(kind)
    model = (shared_dir / "models" / f"{name}.tflite").read_bytes()
    assert first_refusal(read_facts(model), kind, MEASURED[kind]) is None
    oracle = open_oracle(model, kind=kind)
    reference = open_oracle(model, kind="litert", kernels="reference")
    draw = np.random.default_rng(3)
    for _ in range(3):
        sample = draw.integers(-128, 128, oracle.inputs[0].shape, np.int8)
        got, expected = (_wide(interpreter.invoke([sample])[0]) for interpreter in (oracle, reference))
        assert np.abs(got - expected).max() <= worst


def _wide(values: Any) -> Any:
    return values.astype(np.int32)


@pytest.mark.parametrize("name", ["GELU", "POW", "TILE", "TOPK_V2", "HARD_SWISH", "SQRT", "TANH"])
def test_the_operators_of_tflm_are_those_that_it_knows(
    name: str, subject_of: Callable[[str], Subject], needs: Callable[[RuntimeKind], None]
) -> None:
    needs("tflm")
    try:
        open_oracle(with_operator(subject_of("digits").model, "MAX_POOL_2D", name), kind="tflm")
        known = True
    except (UnsupportedModelError, ModelFailedError) as error:  # what it knows may refuse the options of another
        known = error.message != f"TFLM cannot load the model: it has no operator {name}"
    assert known == (name in TFLM_OPERATORS)


def with_operator(model: bytes, old: str, new: str) -> bytes:
    """Return the model with another operator in the place of one."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    for code in tree.operatorCodes:
        if max(code.builtinCode, code.deprecatedBuiltinCode) == getattr(schema.BuiltinOperator, old):
            code.builtinCode = getattr(schema.BuiltinOperator, new)
            code.deprecatedBuiltinCode = min(code.builtinCode, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
