# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite Micro behind our terms: it answers as the reference kernels do, and its refusals are sentences."""

import os
import signal
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgefleet.contracts.errors import MissingExtraError, ModelFailedError, UnsupportedModelError
from edgefleet.runtimes import tflm
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tflm import TflmInterpreter
from edgefleet.runtimes.tflm_arena import TflmArena, measure_arena

needs_tflm = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is missing (extra 'converter')")
_BUCKETIZE = 147  # an operator that TFLM does not have: its number in TensorFlow Lite's schema
_MAX_POOL_2D = 17


@pytest.fixture(scope="module")
def hybrid_model(digits_model: bytes) -> bytes:
    """The digits model with weights of eight bits and activations in float."""
    from ai_edge_quantizer import quantizer, recipe

    worker = quantizer.Quantizer(digits_model, recipe.dynamic_wi8_afp32())
    return bytes(worker.quantize(enable_progress_report=False).quantized_model)


def changed(model: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a well-formed flatbuffer with one fact changed."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_operator(tree: Any, old: int, new: int) -> None:
    for code in tree.operatorCodes:
        if max(code.builtinCode, code.deprecatedBuiltinCode) == old:
            code.builtinCode, code.deprecatedBuiltinCode = new, min(new, 127)


@needs_tflm
def test_a_float_model_answers_bit_for_bit_as_on_the_reference_kernels(
    digits_model: bytes, digits_samples: np.ndarray
) -> None:
    micro, reference = TflmInterpreter(digits_model), LiteRtInterpreter(digits_model, kernels="reference")
    assert (micro.inputs, micro.outputs) == (reference.inputs, reference.outputs)
    for sample in digits_samples:
        (answer,), (expected,) = micro.invoke([sample]), reference.invoke([sample])
        assert answer.dtype == expected.dtype
        assert (answer == expected).all()


@needs_tflm
def test_an_int8_model_answers_bit_for_bit_as_on_the_reference_kernels(shared_model: Callable[[str], bytes]) -> None:
    model = shared_model("kws_int8.tflite")
    micro, reference = TflmInterpreter(model), LiteRtInterpreter(model, kernels="reference")
    assert (micro.inputs, micro.outputs) == (reference.inputs, reference.outputs)
    draw = np.random.default_rng(7)
    for _ in range(5):
        sample = draw.integers(-128, 128, micro.inputs[0].shape, np.int8)
        assert (micro.invoke([sample])[0] == reference.invoke([sample])[0]).all()


@needs_tflm
def test_an_answer_stays_when_the_state_is_reset_and_the_next_sample_comes(
    digits_model: bytes, digits_samples: np.ndarray
) -> None:
    micro = TflmInterpreter(digits_model)
    (first,) = micro.invoke([digits_samples[0]])
    kept = first.copy()
    (second,) = micro.invoke([digits_samples[1]])
    assert (first == kept).all()
    assert (second != kept).any()
    micro.reset_state()
    assert (micro.invoke([digits_samples[0]])[0] == kept).all()


@needs_tflm
def test_a_refusal_names_the_operator_and_the_reason(hybrid_model: bytes) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        TflmInterpreter(hybrid_model)
    assert refused.value.message == (
        "TFLM cannot load the model: the operator CONV_2D (number 0) fails to prepare: "
        "Hybrid models are not supported on TFLite Micro."
    )


@needs_tflm
def test_an_operator_that_tflm_does_not_have_is_named(digits_model: bytes) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        TflmInterpreter(changed(digits_model, lambda tree: with_operator(tree, _MAX_POOL_2D, _BUCKETIZE)))
    assert refused.value.message == "TFLM cannot load the model: it has no operator BUCKETIZE"


@needs_tflm
def test_an_arena_that_is_too_small_is_said(digits_model: bytes) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        TflmInterpreter(digits_model, arena_bytes=2_000)
    assert refused.value.message == "TFLM cannot load the model: it does not fit an arena of 2000 bytes"


@needs_tflm
@pytest.mark.parametrize("model", [b"", b"no model", bytes(4000)], ids=["nothing", "text", "zeros"])
def test_what_is_no_model_ends_in_one_sentence(model: bytes) -> None:
    with pytest.raises((UnsupportedModelError, ModelFailedError)) as refused:
        TflmInterpreter(model)
    assert refused.value.message.startswith(("TFLM cannot load the model: ", "the model ended TFLM ("))
    assert "\n" not in refused.value.message


@needs_tflm
def test_a_model_that_lies_about_itself_leaves_this_process_alone(digits_model: bytes) -> None:
    def claim_a_tensor_that_is_not_there(tree: Any) -> None:
        tree.subgraphs[0].operators[0].inputs = np.array([0, 5_000_000, 2], np.int32)

    with pytest.raises((UnsupportedModelError, ModelFailedError)) as refused:
        TflmInterpreter(changed(digits_model, claim_a_tensor_that_is_not_there))
    assert "\n" not in refused.value.message


@needs_tflm
def test_a_death_and_a_hang_are_errors_of_ours(digits_model: bytes, digits_samples: np.ndarray) -> None:
    killed = TflmInterpreter(digits_model)
    os.kill(killed._process.pid, signal.SIGKILL)
    with pytest.raises(ModelFailedError) as failed:
        killed.invoke([digits_samples[0]])
    assert failed.value.message == "the model ended TFLM (SIGKILL)"
    with pytest.raises(ModelFailedError) as failed:
        killed.invoke([digits_samples[0]])
    assert failed.value.message == "TFLM was ended already"
    stopped = TflmInterpreter(digits_model)
    stopped._deadline_s = 0.2
    os.kill(stopped._process.pid, signal.SIGSTOP)
    with pytest.raises(ModelFailedError) as failed:
        stopped.invoke([digits_samples[0]])
    assert failed.value.message == "the model did not answer on TFLM within 0.2 s"


@needs_tflm
def test_the_child_goes_with_its_interpreter(digits_model: bytes) -> None:
    interpreter = TflmInterpreter(digits_model)
    process = interpreter._process
    interpreter.close()
    assert process.returncode == -signal.SIGKILL
    forgotten = TflmInterpreter(digits_model)
    process = forgotten._process
    del forgotten
    assert process.returncode == -signal.SIGKILL


@needs_tflm
def test_an_input_that_does_not_fit_is_refused_and_the_model_lives_on(
    digits_model: bytes, digits_samples: np.ndarray
) -> None:
    micro = TflmInterpreter(digits_model)
    with pytest.raises(ModelFailedError) as failed:
        micro.invoke([np.zeros((1, 9, 8, 1), np.float32)])
    assert failed.value.message == (
        "the model failed to run: input 'frame' is float32 [1, 8, 8, 1], got float32 [1, 9, 8, 1]"
    )
    with pytest.raises(ModelFailedError) as failed:
        micro.invoke([])
    assert failed.value.message == "the model failed to run: it has 1 inputs, got 0"
    assert np.isfinite(micro.invoke([digits_samples[0]])[0]).all()


@needs_tflm
def test_tflm_clamps_nan_away_as_the_reference_kernels_do_so_that_production_kernels_must_be_asked(
    nan_model: bytes,
) -> None:
    micro = TflmInterpreter(nan_model)
    blank = np.zeros(micro.inputs[0].shape, np.float32)
    assert np.isnan(LiteRtInterpreter(nan_model, kernels="production").invoke([blank])[0]).any()
    assert np.isfinite(LiteRtInterpreter(nan_model, kernels="reference").invoke([blank])[0]).all()
    assert np.isfinite(micro.invoke([blank])[0]).all()


@needs_tflm
def test_the_arena_is_what_tflm_recorded(shared_model: Callable[[str], bytes]) -> None:
    found = measure_arena(shared_model("vww_int8.tflite"))
    assert found == TflmArena(head_bytes=73_728, tail_bytes=29_952, total_bytes=103_680)


@needs_tflm
def test_head_and_tail_are_the_whole_arena(digits_model: bytes) -> None:
    found = measure_arena(digits_model)
    assert found.head_bytes + found.tail_bytes == found.total_bytes
    assert found.head_bytes == 6_144


def test_without_the_wheel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, digits_model: bytes) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(tflm, "version", missing)
    with pytest.raises(MissingExtraError) as caught:
        TflmInterpreter(digits_model)
    assert (caught.value.message, caught.value.hint) == (
        "checking a model on TensorFlow Lite Micro needs the extra 'converter', which is not installed",
        "run: pip install 'edgefleet[converter]'",
    )
