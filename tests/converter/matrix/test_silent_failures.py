# SPDX-License-Identifier: Apache-2.0
"""What runtimes compute wrongly without a word: each is still wrong, and each is refused before there is a bundle.

A test that fails because the runtime is right again is good news: take the case out of the table of rules.
"""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from benchmarks.runtime_matrix import Subject, answers, make_raw
from converter.adapters.flatbuffers.reading import read_facts
from converter.core.board.checks import check_board
from converter.core.board.runtime_rules import MEASURED, RIGHT, WRONG, Mode
from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError, UnsupportedModelError
from edgefleet.contracts.manifest import RuntimeKind
from edgefleet.contracts.profile import Profile, RuntimeFacts
from edgefleet.runtimes.oracle import check_runs_right, open_oracle
from edgefleet.runtimes.tensors import to_model_inputs
from firmware_profiles import load_profile

SubjectOf = Callable[[str], Subject]
ModelOf = Callable[[Subject, str], bytes]
Needs = Callable[[RuntimeKind], None]
#: Scores of digits: what no sound mode falls under, and what no broken one reaches.
SOUND, BROKEN = 0.9, 0.6


def board(kind: RuntimeKind) -> Profile:
    numerics = "tflm/1" if kind == "tflm" else "litert/1"
    runtime = RuntimeFacts(kind=kind, version=MEASURED[kind], numerics=numerics)  # type: ignore[arg-type]
    precisions = ("int8", "dynamic-int8", "int4", "int16x8", "mixed", "float16", "float32")
    return msgspec.structs.replace(load_profile("linux-x86_64"), runtime=runtime, precisions=precisions)


def refused(model: bytes, kind: RuntimeKind) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        check_board(read_facts(model), board(kind))
    return caught.value.message


def score(subject: Subject, model: bytes, kind: RuntimeKind) -> float:
    """Return the score on a runtime's production kernels; NaN counts as nothing right."""
    try:
        answered = answers(open_oracle(model, kind=kind, kernels="production"), subject)
    except ModelFailedError as error:
        if "answers NaN" not in error.message:
            raise
        return 0.0
    return subject.score(subject.samples, np.nan_to_num(answered))


def test_fact_1_the_quantizers_own_versions_let_the_old_runtime_compute_wrongly(
    subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    needs("tflite-runtime")
    digits = subject_of("digits")
    raw, right = make_raw(digits, "dynamic-int8"), model_of(digits, "dynamic-int8")
    assert raw is not None
    assert score(digits, right, "litert") > SOUND
    assert score(digits, raw, "tflite-runtime") < BROKEN
    for model in (raw, right):
        assert refused(model, "tflite-runtime") == (
            "FULLY_CONNECTED is needed in version 12, which came with TFLite 2.17.0; "
            "profile 'linux-x86_64' has tflite-runtime 2.14.0"
        )


def test_fact_2_dynamic_range_with_a_dense_layer_does_not_load_on_the_old_runtime(
    subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    needs("tflite-runtime")
    model = model_of(subject_of("digits"), "dynamic-int8")  # FULLY_CONNECTED as TensorFlow 2.21 writes it: version 12
    with pytest.raises(UnsupportedModelError) as caught:
        open_oracle(model, kind="tflite-runtime")
    assert "Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'" in caught.value.message
    assert "version 12" in refused(model, "tflite-runtime")


def test_fact_3_weights_of_eight_bits_alone_are_unpacked_wrongly_on_tflm(
    subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    needs("tflm")
    digits = subject_of("digits")
    model = model_of(digits, "weight-only int8")
    expected = answers(open_oracle(model, kind="litert", kernels="reference"), digits)
    assert np.abs(answers(open_oracle(model, kind="tflm"), digits) - expected).max() > 0.1
    assert refused(model, "tflm") == (
        "DEQUANTIZE of int8 weights per channel is computed wrongly by tflm; profile 'linux-x86_64' has tflm 1"
    )
    per_tensor = model_of(digits, "weight-only int8 per tensor")
    expected = answers(open_oracle(per_tensor, kind="litert", kernels="reference"), digits)
    assert np.abs(answers(open_oracle(per_tensor, kind="tflm"), digits) - expected).max() < 1e-5
    check_board(read_facts(per_tensor), board("tflm"))


#: Subject, its mode, runtime, operator, how that computes, and the mode of the subject that works there.
CASES: list[tuple[str, str, RuntimeKind, str, Mode, str]] = [
    ("digits", "dynamic-int4", "tflite-runtime", "CONV_2D",
     Mode("float32", "int4", True), "int4 (CONV_2D)"),
    ("digits", "int4 under int16 (CONV_2D)", "tflite-runtime", "CONV_2D",
     Mode("int16", "int4", True), "int16x8"),
    ("digits, matmul", "dynamic-int8", "tflite-runtime", "BATCH_MATMUL",
     Mode("float32", "int8", True), "dynamic-int8 per tensor"),
    ("digits, matmul", "int8", "tflite-runtime", "BATCH_MATMUL", Mode("int8", "int8", True), "float32"),
    ("digits, matmul", "int8", "litert", "BATCH_MATMUL", Mode("int8", "int8", True), "float32"),
    ("digits, matmul", "int16x8", "litert", "BATCH_MATMUL", Mode("int16", "int8", True), "float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mode", "kind", "operator", "how", "works"), CASES, ids=[f"{c[3]} with {c[4]} on {c[2]}" for c in CASES]
)
def test_a_way_of_computing_that_is_wrong_is_refused_by_name_and_another_works(
    name: str, mode: str, kind: RuntimeKind, operator: str, how: Mode, works: str,
    subject_of: SubjectOf, model_of: ModelOf, needs: Needs,
) -> None:  # fmt: skip
    needs(kind)
    subject = subject_of(name)
    model, working = model_of(subject, mode), model_of(subject, works)
    assert score(subject, model, kind) < BROKEN
    assert how in WRONG[kind][operator]
    assert refused(model, kind) == (
        f"{operator} with {how} is computed wrongly by {kind}; profile 'linux-x86_64' has {kind} {MEASURED[kind]}"
    )
    assert score(subject, working, kind) > SOUND
    check_board(read_facts(working), board(kind))


@pytest.mark.parametrize("kind", ["litert", "tflite-runtime"])
def test_one_scale_for_all_channels_of_a_depthwise_convolution_under_floats_reads_past_it(
    kind: RuntimeKind, subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    """Kernels take a scale for each channel; what lies behind the only one differs from run to run."""
    needs(kind)
    subject = subject_of("vww")
    working = "dynamic-int8" if kind == "litert" else "dynamic-int8, dense per tensor"
    assert distance(subject, subject.model, kind) < 0.001
    assert distance(subject, model_of(subject, working), kind) < 0.05
    model = model_of(subject, "dynamic-int8 per tensor")
    assert distance(subject, model, kind) > 0.2
    assert Mode("float32", "int8") in WRONG[kind]["DEPTHWISE_CONV_2D"]
    assert refused(model, kind) == (
        "DEPTHWISE_CONV_2D with int8 weights per tensor under float32 activations is computed wrongly by "
        f"{kind}; profile 'linux-x86_64' has {kind} {MEASURED[kind]}"
    )


def distance(subject: Subject, model: bytes, kind: RuntimeKind) -> float:
    """Return the mean difference from the float model's answers; NaN counts as far."""
    expected = answers(open_oracle(subject.model, kind="litert", kernels="reference"), subject)
    try:
        answered = answers(open_oracle(model, kind=kind, kernels="production"), subject)
    except ModelFailedError as error:
        if "answers NaN" not in error.message:
            raise
        return 1.0
    return float(np.nan_to_num(np.abs(answered - expected), nan=1.0).mean())


@pytest.mark.parametrize("kind", ["tflite-runtime", "tflm"])
def test_four_bits_in_a_dense_layer_with_a_scale_for_each_channel_are_refused_as_the_runtime_does(
    kind: RuntimeKind, subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    needs(kind)
    digits = subject_of("digits")
    model = model_of(digits, "int4 (dense per channel)")
    with pytest.raises(EdgeFleetError):
        open_oracle(model, kind=kind)
    assert refused(model, kind).startswith(
        "FULLY_CONNECTED with int4 weights per channel under int8 activations is not"
    )
    assert Mode("int8", "int4") in RIGHT[kind]["FULLY_CONNECTED"]
    assert score(digits, model_of(digits, "int4 (dense per tensor)"), kind) > SOUND


def test_four_bits_unpacked_into_floats_are_refused_as_the_old_runtime_does(
    subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    needs("tflite-runtime")
    model = model_of(subject_of("digits"), "weight-only int4")
    with pytest.raises(UnsupportedModelError):
        open_oracle(model, kind="tflite-runtime")
    assert refused(model, "tflite-runtime") == (
        "DEQUANTIZE is needed in version 6, which came with TFLite 2.18.0; "
        "profile 'linux-x86_64' has tflite-runtime 2.14.0"
    )


def test_eight_and_sixteen_bits_in_one_model_are_refused_as_the_old_runtime_does(
    subject_of: SubjectOf, model_of: ModelOf, needs: Needs
) -> None:
    needs("tflite-runtime")
    model = model_of(subject_of("digits"), "mixed (dense in int16x8)")
    with pytest.raises(UnsupportedModelError):
        open_oracle(model, kind="tflite-runtime")
    assert refused(model, "tflite-runtime") == (
        "QUANTIZE from int8 to int16 is not run by tflite-runtime; profile 'linux-x86_64' has tflite-runtime 2.14.0"
    )


def test_a_run_sees_what_no_rule_knows(subject_of: SubjectOf, model_of: ModelOf, needs: Needs) -> None:
    needs("tflite-runtime")
    digits = subject_of("digits")
    for mode, sound in (
        ("int8", True),
        ("dynamic-int8, dense per tensor", True),
        ("int4 under int16 (CONV_2D)", False),
    ):
        model = model_of(digits, mode)
        specs = open_oracle(model, kind="litert", kernels="reference").inputs
        inputs = [to_model_inputs([sample], specs) for sample in digits.samples]
        if sound:
            found = check_runs_right(model, kind="tflite-runtime", task="classification", inputs=inputs)
            assert found.top1_changed == 0
            assert found.difference < 0.1
            continue
        with pytest.raises(ModelFailedError) as failed:
            check_runs_right(model, kind="tflite-runtime", task="classification", inputs=inputs)
        assert failed.value.message.startswith("tflite-runtime does not compute the model right: ")
        assert failed.value.message.endswith(" of their spread from the reference kernels' (allowed 0.3)")
