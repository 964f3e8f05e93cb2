# SPDX-License-Identifier: Apache-2.0
"""The table of what runs right: it names the operator and a way that works, and tells kinds of models apart."""

import itertools
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.core.board.checks import check_board
from converter.core.board.operator_versions import required_version
from converter.core.board.runtime_rules import (
    MEASURED,
    NOT_IN_INTEGERS,
    RIGHT,
    RIGHT_CONSTANTS,
    TFLM_OPERATORS,
    WRONG,
    Mode,
    choose_mode,
    first_refusal,
    mode_of,
    supported_precisions,
)
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import Precision, RuntimeKind
from edgefleet.contracts.profile import Profile, RuntimeFacts
from firmware_profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
KINDS = get_args(RuntimeKind)
TYPES = ("float32", "int8", "int16", "uint8", "int4", "int2", "float16")
MODES = [
    Mode(data, weights, per_channel)
    for data, weights, per_channel in itertools.product(TYPES, TYPES, (False, True))
    if not (per_channel and weights.startswith("float"))
]


def tensor(dtype: str, *, scales: int = 1, constant_bytes: int = 0) -> TensorFacts:
    quantized = dtype not in ("float32", "float16", "int32")
    return TensorFacts(dtype, (1, 4), dtype, constant_bytes, (0.1,) * scales if quantized else ())


def with_right_versions(facts: GraphFacts) -> GraphFacts:
    operators = tuple(OperatorFacts(o.name, required_version(o, facts), o.inputs, o.outputs) for o in facts.operators)
    return GraphFacts(operators, facts.tensors, facts.inputs, facts.outputs, 1, 100, None)


def graph_of(operator: str, mode: Mode) -> GraphFacts:
    """One operator with weights, a bias, and data that comes in and goes out in the mode's type."""
    data, weights = tensor(mode.data), tensor(mode.weights, scales=3 if mode.per_channel else 1, constant_bytes=12)
    bias = tensor("int32", constant_bytes=16)
    inputs = {"TRANSPOSE_CONV": (3, 1, 0, 3), "BATCH_MATMUL": (0, 1)}.get(operator, (0, 1, 3))
    described = OperatorFacts(operator, 1, inputs, (2,))
    return with_right_versions(GraphFacts((described,), (data, weights, data, bias), (0,), (2,), 1, 100, None))


def unpacking(weights: str, *, scales: int = 1) -> GraphFacts:
    """Weights that become floats, and an operator that takes them."""
    tensors = (tensor(weights, scales=scales, constant_bytes=12), tensor("float32"))
    operators = (
        OperatorFacts("DEQUANTIZE", 1, (0,), (1,)),
        OperatorFacts("FULLY_CONNECTED", 1, (1, 1, -1), (1,)),
    )
    return with_right_versions(GraphFacts(operators, tensors, (1,), (1,), 1, 100, None))


def casting(source: str, made: str) -> GraphFacts:
    tensors = (tensor(source), tensor(made))
    operators = (OperatorFacts("QUANTIZE", 1, (0,), (1,)),)
    return with_right_versions(GraphFacts(operators, tensors, (0,), (1,), 1, 100, None))


def board(kind: RuntimeKind, version: str | None = None) -> Profile:
    numerics = "tflm/1" if kind == "tflm" else "litert/1"
    facts = RuntimeFacts(kind=kind, version=version or MEASURED[kind], numerics=numerics)  # type: ignore[arg-type]
    return msgspec.structs.replace(load_profile("linux-x86_64"), runtime=facts, precisions=get_args(Precision))


REFUSED = [
    ("litert", graph_of("DEPTHWISE_CONV_2D", Mode("float32", "int8")),
     "DEPTHWISE_CONV_2D with int8 weights per tensor under float32 activations is computed wrongly by litert",
     "int8 weights per channel under float32 activations"),
    ("tflite-runtime", graph_of("DEPTHWISE_CONV_2D", Mode("float32", "int8")),
     "DEPTHWISE_CONV_2D with int8 weights per tensor under float32 activations is computed wrongly by tflite-runtime",
     "int8 weights per channel under float32 activations"),
    ("tflm", graph_of("DEPTHWISE_CONV_2D", Mode("float32", "int8")),
     "DEPTHWISE_CONV_2D with int8 weights per tensor under float32 activations is not known to run right on tflm",
     "int8 weights per channel under int8 activations"),
    ("litert", graph_of("DEPTHWISE_CONV_2D", Mode("int8", "int4", True)),
     "DEPTHWISE_CONV_2D with int4 weights per channel under int8 activations is not known to run right on litert",
     "int8 weights per channel under int8 activations"),
    ("tflite-runtime", graph_of("CONV_2D", Mode("float32", "int4", True)),
     "CONV_2D with int4 weights per channel under float32 activations is computed wrongly by tflite-runtime",
     "int8 weights per channel under float32 activations"),
    ("tflite-runtime", graph_of("CONV_2D", Mode("int16", "int4", True)),
     "CONV_2D with int4 weights per channel under int16 activations is computed wrongly by tflite-runtime",
     "int8 weights per channel under int16 activations"),
    ("tflite-runtime", graph_of("BATCH_MATMUL", Mode("float32", "int8", True)),
     "BATCH_MATMUL with int8 weights per channel under float32 activations is computed wrongly by tflite-runtime",
     "int8 weights per tensor under float32 activations"),
    ("tflite-runtime", graph_of("FULLY_CONNECTED", Mode("float32", "int8", True)),
     "FULLY_CONNECTED is needed in version 12, which came with TFLite 2.17.0",
     "int8 weights per tensor under float32 activations"),
    ("tflite-runtime", graph_of("FULLY_CONNECTED", Mode("int8", "int4", True)),
     "FULLY_CONNECTED with int4 weights per channel under int8 activations is not known to run right on tflite-runtime",
     "int4 weights per tensor under int8 activations"),
    ("tflm", graph_of("FULLY_CONNECTED", Mode("int8", "int4", True)),
     "FULLY_CONNECTED with int4 weights per channel under int8 activations is not known to run right on tflm",
     "int4 weights per tensor under int8 activations"),
    ("tflm", graph_of("CONV_2D", Mode("float32", "int8", True)),
     "CONV_2D with int8 weights per channel under float32 activations is not known to run right on tflm",
     "int8 weights per channel under int8 activations"),
    ("tflm", graph_of("CONV_2D", Mode("uint8", "uint8")),
     "CONV_2D with uint8 weights per tensor under uint8 activations is not known to run right on tflm",
     "int8 weights per channel under int8 activations"),
    ("tflm", unpacking("int8", scales=3),
     "DEQUANTIZE of int8 weights per channel is computed wrongly by tflm",
     "int8 weights under int8 activations (int8), or float32"),
    ("tflm", unpacking("float16"),
     "DEQUANTIZE of float16 weights is not run by tflm", "int8 weights under int8 activations (int8), or float32"),
    ("tflm", unpacking("int4"),
     "DEQUANTIZE of int4 weights per tensor is not run by tflm",
     "int8 weights under int8 activations (int8), or float32"),
    ("tflite-runtime", unpacking("int4"),
     "DEQUANTIZE is needed in version 6, which came with TFLite 2.18.0", "float32, or a model without this operator"),
    ("tflite-runtime", casting("int8", "int16"),
     "QUANTIZE from int8 to int16 is not run by tflite-runtime", "activations of one width throughout"),
    ("tflm", graph_of("GELU", Mode("float32", "float32")),
     "GELU is no operator of TFLM", "a model without it, or a board with another runtime"),
    ("tflite-runtime", graph_of("SVDF", Mode("float32", "int8")),
     "SVDF with int8 weights per tensor under float32 activations is not known to run right on tflite-runtime",
     "float32, or a model without this operator"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "facts", "why", "instead"), REFUSED, ids=[f"{r[0]}: {r[2]}" for r in REFUSED])
def test_a_refusal_names_operator_reason_and_what_would_work(
    kind: RuntimeKind, facts: GraphFacts, why: str, instead: str
) -> None:
    found = first_refusal(facts, kind, MEASURED[kind])
    assert found is not None
    assert (str(found), found.instead, found.operator) == (why, instead, why.split()[0])
    with pytest.raises(UnsupportedModelError) as refused:
        check_board(facts, board(kind))
    assert (refused.value.message, refused.value.hint) == (
        f"{why}; profile 'linux-x86_64' has {kind} {MEASURED[kind]}", f"what would work: {instead}",
    )  # fmt: skip


ACCEPTED = [
    ("litert", graph_of("DEPTHWISE_CONV_2D", Mode("float32", "int8", True))),
    ("litert", unpacking("int8", scales=3)),
    ("litert", unpacking("int4", scales=3)),
    ("litert", unpacking("float16")),
    ("litert", graph_of("SVDF", Mode("float32", "int8"))),
    ("litert", casting("int8", "int16")),
    ("tflite-runtime", graph_of("CONV_2D", Mode("int8", "int4", True))),
    ("tflite-runtime", graph_of("FULLY_CONNECTED", Mode("int8", "int4"))),
    ("tflite-runtime", unpacking("int8", scales=3)),
    ("tflite-runtime", unpacking("float16")),
    ("tflite-runtime", casting("int16", "int8")),
    ("tflm", graph_of("CONV_2D", Mode("int8", "int4", True))),
    ("tflm", graph_of("FULLY_CONNECTED", Mode("int8", "int4"))),
    ("tflm", graph_of("SVDF", Mode("int8", "int8"))),
    ("tflm", unpacking("int8")),
    ("tflm", casting("int8", "int16")),
]


@pytest.mark.parametrize(("kind", "facts"), ACCEPTED)
def test_what_was_seen_to_run_right_is_accepted(kind: RuntimeKind, facts: GraphFacts) -> None:
    assert first_refusal(facts, kind, MEASURED[kind]) is None


def test_a_later_release_may_run_what_an_earlier_did_not_know() -> None:
    facts = graph_of("FULLY_CONNECTED", Mode("float32", "int8", True))
    assert first_refusal(facts, "tflite-runtime", "2.16.9") is not None
    assert first_refusal(facts, "tflite-runtime", "2.17.0") is None
    conv = graph_of("CONV_2D", Mode("float32", "int4", True))  # no version tells the kernels that are wrong
    assert first_refusal(conv, "tflite-runtime", "2.21.0") is not None


def test_an_operator_that_no_release_is_known_for_is_refused_on_an_old_runtime() -> None:
    facts = graph_of("NEW_THING", Mode("float32", "float32"))
    assert str(first_refusal(facts, "tflite-runtime", "2.14.0")) == (
        "NEW_THING is needed in version 1, which no known release has"
    )


@given(st.sampled_from(KINDS), st.sampled_from(sorted(RIGHT["litert"])), st.sampled_from(MODES))
def test_every_way_to_compute_is_right_or_refused_with_one_that_is_right(
    kind: RuntimeKind, operator: str, mode: Mode
) -> None:
    found = first_refusal(graph_of(operator, mode), kind, MEASURED[kind])
    if found is None:
        assert mode in RIGHT[kind][operator]
        return
    assert found.operator == operator
    assert found.instead in {str(right) for right in RIGHT[kind][operator]}
    working = next(right for right in RIGHT[kind][operator] if str(right) == found.instead)
    assert first_refusal(graph_of(operator, working), kind, MEASURED[kind]) is None


def test_nothing_is_both_right_and_wrong() -> None:
    for kind in KINDS:
        assert set(RIGHT[kind]) == set(RIGHT["litert"])
        assert not any(modes & RIGHT[kind].get(operator, frozenset()) for operator, modes in WRONG[kind].items())
        assert not WRONG[kind].get("DEQUANTIZE", frozenset()) & RIGHT_CONSTANTS[kind]
    assert set(RIGHT["tflm"]) <= TFLM_OPERATORS


def test_the_first_operator_that_fails_is_named() -> None:
    good, bad = graph_of("CONV_2D", Mode("float32", "float32")), unpacking("float16")
    moved = tuple(
        OperatorFacts(
            o.name, o.version, tuple(i + 4 if i >= 0 else i for i in o.inputs), tuple(i + 4 for i in o.outputs)
        )
        for o in bad.operators
    )
    facts = GraphFacts((*good.operators, *moved), good.tensors + bad.tensors, (0,), (5,), 1, 100, None)
    found = first_refusal(facts, "tflm", "1")
    assert found is not None
    assert found.operator == "DEQUANTIZE"


FLOAT_CONV = graph_of("CONV_2D", Mode("float32", "float32"))
FLOAT_DENSE = graph_of("FULLY_CONNECTED", Mode("float32", "float32"))
FLOAT_MATMUL = graph_of("BATCH_MATMUL", Mode("float32", "float32"))
FLOAT_RELU = graph_of("RELU", Mode("float32", "float32"))
EVERY = ("float32", "float16", "dynamic-int8", "int8", "int16x8", "int4", "mixed")


@pytest.mark.parametrize(
    ("facts", "kind", "expected"),
    [
        (FLOAT_CONV, "litert", EVERY),
        (FLOAT_CONV, "tflite-runtime", EVERY),
        (FLOAT_CONV, "tflm", ("float32", "int8", "int16x8", "int4", "mixed")),
        (FLOAT_DENSE, "tflite-runtime", EVERY),
        (FLOAT_MATMUL, "tflite-runtime", ("float32", "float16", "dynamic-int8", "int8", "mixed")),
        (FLOAT_MATMUL, "tflm", ("float32", "int8", "mixed")),
        (FLOAT_RELU, "litert", ("float32", "float16", "int8", "int16x8", "mixed")),
        (graph_of("GELU", Mode("float32", "float32")), "tflm", ()),
    ],
)
def test_the_precisions_that_a_float_model_can_have(
    facts: GraphFacts, kind: RuntimeKind, expected: tuple[Precision, ...]
) -> None:
    assert supported_precisions(facts, kind) == expected


@pytest.mark.parametrize(
    ("operator", "precision", "kind", "expected"),
    [
        ("FULLY_CONNECTED", "dynamic-int8", "litert", Mode("float32", "int8", True)),
        ("FULLY_CONNECTED", "dynamic-int8", "tflite-runtime", Mode("float32", "int8")),
        ("FULLY_CONNECTED", "int4", "tflm", Mode("int8", "int4")),
        ("DEPTHWISE_CONV_2D", "int4", "litert", Mode("int8", "int8", True)),
        ("BATCH_MATMUL", "int8", "litert", Mode("int8", "int8")),
        ("CONV_2D", "dynamic-int8", "tflm", None),
    ],
)
def test_an_operator_gets_the_first_mode_that_runs_right(
    operator: str, precision: Precision, kind: RuntimeKind, expected: Mode | None
) -> None:
    assert choose_mode(operator, precision, kind) == expected


def test_an_operator_without_its_weights_has_no_mode() -> None:
    facts = graph_of("CONV_2D", Mode("int8", "int8", True))
    assert mode_of(facts.operators[0], facts) == Mode("int8", "int8", True)
    assert mode_of(OperatorFacts("CONV_2D", 1, (0,), (2,)), facts) is None
    assert mode_of(OperatorFacts("CONV_2D", 1, (0, -1, 3), (2,)), facts) is None
    assert mode_of(OperatorFacts("RELU", 1, (0, 1), (2,)), facts) is None


def chain(*types: str, weights: str = "int8") -> GraphFacts:
    """Fully connected operators in a row, whose data have these types from the input to the output."""
    flowing = tuple(tensor(dtype) for dtype in types)
    constant = tensor(weights, constant_bytes=12)
    operators = tuple(OperatorFacts("FULLY_CONNECTED", 1, (n, len(types), -1), (n + 1,)) for n in range(len(types) - 1))
    return GraphFacts(operators, (*flowing, constant), (0,), (len(types) - 1,), 1, 100, None)


@pytest.mark.parametrize(
    ("facts", "precision"),
    [
        (chain("float32", "float32", weights="float32"), "float32"),
        (chain("float32", "float32", weights="float16"), "float16"),
        (chain("float32", "float32"), "dynamic-int8"),
        (chain("float32", "float32", weights="int4"), "dynamic-int4"),
        (chain("int8", "int8"), "int8"),
        (chain("uint8", "int8", "int8"), "int8"),
        (chain("int8", "int8", weights="int4"), "int4"),
        (chain("int8", "int8", weights="int2"), "int2"),
        (chain("int16", "int16"), "int16x8"),
        (chain("int16", "int16", weights="int4"), "mixed"),
        (chain("int8", "int16"), "mixed"),
        (chain("int8", "int16", "int8"), "mixed"),
        (chain("float32", "int8", "float32"), "mixed"),
        (chain("float32", "int8", weights="int4"), "mixed"),
    ],
)
def test_kinds_of_models_are_told_apart(facts: GraphFacts, precision: str) -> None:
    assert facts.precision() == precision


def test_state_that_an_operator_keeps_is_no_activation() -> None:
    state = tensor("int16")
    facts = GraphFacts(
        (OperatorFacts("SVDF", 4, (0, 1, 1, -1, 2), (3,)),),
        (tensor("int8"), tensor("int8", constant_bytes=4), state, tensor("int8")), (0,), (3,), 1, 100, None,
    )  # fmt: skip
    assert facts.precision() == "int8"


def test_what_no_board_lists_is_refused_everywhere() -> None:
    for kind in KINDS:
        with pytest.raises(UnsupportedModelError):
            check_board(chain("float32", "float32", weights="int4"), board(kind))


def test_the_documented_table_is_the_table() -> None:
    page = (ROOT / "docs" / "how-to" / "check-on-other-runtimes.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([A-Z_0-9]+) \| (\w+) weights( per \w+)?(?: under (\w+) activations)? \| (.+) \|$", page, re.M
    )
    assert {operator for operator, *_ in rows} == {*RIGHT["litert"], "DEQUANTIZE"}
    for operator, weights, scales, data, said in rows:
        mode = Mode(data, weights, scales == " per channel")
        facts = unpacking(weights, scales=3 if mode.per_channel else 1) if not data else graph_of(operator, mode)
        for kind, word in zip(("litert", "tflite-runtime", "tflm"), said.split(" | "), strict=True):
            refused = first_refusal(facts, kind, MEASURED[kind]) is not None
            wrong = mode in WRONG[kind].get(operator, frozenset())
            assert word == ("**wrong in silence**" if wrong else "refused" if refused else "runs right"), (
                operator,
                mode,
            )


@given(st.binary(max_size=6), st.integers(-3, 999))
def test_no_version_and_no_name_breaks_the_table(name: bytes, version: int) -> None:
    described = OperatorFacts(name.decode("latin-1"), version, (0,), (0,))
    facts = GraphFacts((described,), (tensor("float32"),), (0,), (0,), 1, 100, None)
    found = first_refusal(facts, "tflite-runtime", "2.14.0")
    assert found is not None
    assert found.operator == described.name


def test_positions_of_64_bits_are_refused_on_tflm() -> None:
    tensors = (tensor("int8"), tensor("int32", constant_bytes=4), TensorFacts("best", (1,), "int64", 0))
    facts = GraphFacts((OperatorFacts("ARG_MAX", 2, (0, 1), (2,)),), tensors, (0,), (2,), 1, 100, None)
    found = first_refusal(facts, "tflm", "1")
    assert str(found) == "ARG_MAX with 64-bit answers is not run by tflm"
    assert first_refusal(facts, "litert", MEASURED["litert"]) is None


def test_integers_are_refused_by_operators_that_a_runtime_has_in_floats_only() -> None:
    for (kind, dtype), names in NOT_IN_INTEGERS.items():
        assert not names & set(RIGHT[kind])
        for name in sorted(names):
            operators = (OperatorFacts(name, 1, (0,), (1,)),)
            facts = with_right_versions(GraphFacts(operators, (tensor(dtype), tensor(dtype)), (0,), (1,), 1, 100, None))
            found = first_refusal(facts, kind, MEASURED[kind])
            known = kind != "tflm" or name in TFLM_OPERATORS
            assert str(found) == (
                f"{name} in {dtype} is not run right by {kind}" if known else f"{name} is no operator of TFLM"
            )
