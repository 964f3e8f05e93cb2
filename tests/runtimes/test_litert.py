# SPDX-License-Identifier: Apache-2.0
"""LiteRT behind our terms: real models answer, damaged ones are refused, and none takes this process along."""

from collections.abc import Callable
from typing import Any, get_args

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError, UnsupportedModelError
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter
from edgefleet.runtimes.probe import probe_model

_SPLIT = 49  # the operator's number in TensorFlow Lite's schema
_COMPLEX64 = 8  # a tensor type's number there


def _changed(model: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a well-formed flatbuffer with one fact changed."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("kernels", get_args(Kernels))
def test_the_digits_model_answers_alike_with_both_kernel_sets(
    kernels: Kernels, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    model = LiteRtInterpreter(digits_model, kernels=kernels)
    reference = LiteRtInterpreter(digits_model, kernels="reference")
    assert [(spec.shape, spec.dtype, spec.scale) for spec in model.inputs] == [((1, 8, 8, 1), "float32", None)]
    assert [(spec.shape, spec.dtype, spec.scale) for spec in model.outputs] == [((1, 10), "float32", None)]
    for sample in digits_samples:
        np.testing.assert_allclose(model.invoke([sample])[0], reference.invoke([sample])[0], rtol=0, atol=1e-4)


def test_an_answer_is_a_copy_that_the_next_inference_leaves_alone(
    digits_model: bytes, digits_samples: np.ndarray
) -> None:
    model = LiteRtInterpreter(digits_model)
    first = model.invoke([digits_samples[0]])[0]
    kept = first.copy()
    model.invoke([digits_samples[1]])
    assert (first == kept).all()


def test_a_quantized_model_tells_its_scales(shared_model: Callable[[str], bytes]) -> None:
    model = LiteRtInterpreter(shared_model("kws_int8.tflite"), kernels="reference")
    (spec,), (out,) = model.inputs, model.outputs
    assert (spec.shape, spec.dtype, out.shape, out.dtype) == ((1, 49, 10, 1), "int8", (1, 12), "int8")
    assert spec.scale is not None
    assert spec.zero_point is not None
    (answer,) = model.invoke([np.zeros(spec.shape, np.int8)])
    assert (answer.dtype, answer.shape) == (np.int8, (1, 12))


WRONG_INPUTS = {
    "another shape": [np.zeros((1, 9, 8, 1), np.float32)],
    "another type": [np.zeros((1, 8, 8, 1), np.int8)],
    "none": [],
    "two": [np.zeros((1, 8, 8, 1), np.float32)] * 2,
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_an_input_that_does_not_fit_is_refused_and_the_model_lives_on(
    case: str, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    model = LiteRtInterpreter(digits_model)
    with pytest.raises(ModelFailedError) as caught:
        model.invoke(WRONG_INPUTS[case])
    assert caught.value.message.startswith("the model failed to run: ")
    assert caught.value.hint == "check the inputs' number, shape and dtype"
    assert np.isfinite(model.invoke([digits_samples[0]])[0]).all()


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "LiteRT cannot load the model: "),
    "text": (lambda _: b"not a model at all, but long enough to be one", "LiteRT cannot load the model: "),
    "half a file": (lambda model: model[: len(model) // 2], "LiteRT cannot load the model: "),
    "an output that does not exist": (
        lambda model: _changed(model, lambda tree: setattr(tree.subgraphs[0], "outputs", [99])),
        "LiteRT cannot load the model: Invalid tensor index 99 in outputs. The subgraph has 14 tensors",
    ),
    "an unknown operator": (
        lambda model: _changed(model, lambda tree: setattr(tree.operatorCodes[0], "builtinCode", 9999)),
        "LiteRT cannot load the model: ",
    ),
    "a name that is not text": (
        lambda model: model.replace(b"Identity", b"Iden\xa0ity"),
        "LiteRT loads the model, but its inputs and outputs cannot be read "
        "('utf-8' codec can't decode byte 0xa0 in position 4: invalid start byte)",
    ),
    "an output of complex numbers": (
        lambda model: _changed(model, lambda tree: setattr(tree.subgraphs[0].tensors[13], "type", _COMPLEX64)),
        "the model's tensor 'Identity' has the type complex64, which no input or output may have",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_model_is_refused_in_one_sentence(case: str, digits_model: bytes) -> None:
    damage, message = DAMAGED[case]
    with pytest.raises(UnsupportedModelError) as caught:
        LiteRtInterpreter(damage(digits_model), kernels="reference")
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message


# Derandomized: one bit in a model can be enough to kill the interpreter (see below), and with it the test run.
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0), st.integers(0, 7)), min_size=1, max_size=6), cut=st.integers(0, 2000))
@example(places=[(0, 0)], cut=0)
def test_flipped_bits_and_missing_bytes_end_in_a_refusal_or_an_answer(
    digits_model: bytes, places: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(digits_model)
    for place, bit in places:
        data[place % len(data)] ^= 1 << bit
    try:
        model = LiteRtInterpreter(bytes(data[: len(data) - (cut if cut > 1000 else 0)]), kernels="reference")
        model.invoke([np.zeros(spec.shape, spec.dtype) for spec in model.inputs])
    except EdgeFleetError as error:
        assert isinstance(error, UnsupportedModelError | ModelFailedError)  # noqa: PT017  # either is right


def test_a_sound_model_passes_the_probe(digits_model: bytes) -> None:
    probe_model(digits_model)
    probe_model(digits_model, kernels="reference")


def test_the_probe_passes_on_what_the_interpreter_refuses(digits_model: bytes) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        probe_model(_changed(digits_model, lambda tree: setattr(tree.subgraphs[0], "outputs", [99])))
    assert caught.value.message == (
        "LiteRT cannot load the model: Invalid tensor index 99 in outputs. The subgraph has 14 tensors"
    )


def test_a_model_that_kills_its_interpreter_kills_only_the_probe(digits_model: bytes) -> None:
    hostile = _changed(digits_model, lambda tree: setattr(tree.operatorCodes[0], "builtinCode", _SPLIT))
    with pytest.raises(ModelFailedError) as caught:
        probe_model(hostile)
    assert caught.value.message == "the model killed the interpreter (SIGSEGV)"
    assert caught.value.hint == "the file is damaged or not made by a converter: get it again from where it was made"


def test_a_model_that_does_not_answer_in_time_is_refused(digits_model: bytes) -> None:
    with pytest.raises(ModelFailedError) as caught:
        probe_model(digits_model, deadline_s=0.001)
    assert caught.value.message == "the model did not answer once within 0.001 s"
