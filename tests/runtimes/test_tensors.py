# SPDX-License-Identifier: Apache-2.0
"""Between real values and tensors: round trips within half a step, clamping, and shapes that do not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.tensors import dequantize, quantize, to_model_inputs

INTEGERS = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16}


def _spec(dtype: str = "int8", scale: float | None = 0.5, zero_point: int | None = 0, shape=(4,)) -> TensorSpec:
    return TensorSpec(name="in", shape=shape, dtype=dtype, scale=scale, zero_point=zero_point)  # type: ignore[arg-type]


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    dtype = draw(st.sampled_from(sorted(INTEGERS)))
    limits = np.iinfo(INTEGERS[dtype])
    zero_point = 0 if dtype == "int16" else draw(st.integers(limits.min, limits.max))
    return _spec(dtype, draw(st.floats(1e-4, 1e3)), zero_point)


@given(spec=specs(), data=st.data())
def test_every_integer_survives_the_way_to_real_values_and_back(spec: TensorSpec, data: st.DataObject) -> None:
    values = data.draw(arrays(INTEGERS[spec.dtype], 16))
    assert (quantize(dequantize(values, spec), spec) == values).all()


@given(spec=specs(), data=st.data())
def test_a_real_value_in_range_moves_by_half_a_step_at_most(spec: TensorSpec, data: st.DataObject) -> None:
    limits = np.iinfo(INTEGERS[spec.dtype])
    low, high = dequantize(np.array([limits.min, limits.max], spec.dtype), spec)
    share = data.draw(arrays(np.float32, 16, elements=st.floats(0, 1, width=32)))
    values = (low + share * (high - low)).astype(np.float32)
    moved = np.abs(dequantize(quantize(values, spec), spec).astype(np.float64) - values)
    # Half a step, and float32's own resolution at the far end of the range.
    assert moved.max() <= (spec.scale or 0) * 0.5 * 1.001 + max(abs(low), abs(high)) * 2**-22


@given(spec=specs(), data=st.data())
def test_a_larger_value_never_gets_a_smaller_integer(spec: TensorSpec, data: st.DataObject) -> None:
    values = np.sort(data.draw(arrays(np.float32, 16, elements=st.floats(-1e6, 1e6, width=32))))
    assert (np.diff(quantize(values, spec).astype(np.int64)) >= 0).all()


def test_values_beyond_the_range_are_clamped_and_halves_go_to_even() -> None:
    values = np.array([-1e9, -np.inf, -0.25, 0.25, 0.75, 1e9, np.inf], np.float32)
    assert quantize(values, _spec()).tolist() == [-128, -128, 0, 0, 2, 127, 127]


def test_nan_is_refused_where_the_tensor_has_integers_and_kept_where_it_has_floats() -> None:
    values = np.array([np.nan, 1.0], np.float32)
    with pytest.raises(SampleError) as caught:
        quantize(values, _spec())
    assert caught.value.message == "a sample of input 'in' has NaN, which a tensor of int8 cannot hold"
    assert np.isnan(quantize(values, _spec("float32", None, None))[0])


def test_a_float_tensor_only_changes_its_type() -> None:
    values = np.array([1, 2, 16], np.uint8)
    assert quantize(values, _spec("float32", None, None)).tolist() == [1.0, 2.0, 16.0]
    assert quantize(values, _spec("float32", None, None)).dtype == np.float32


SHAPES = {
    "as it is": ((1, 8, 8, 1), True),
    "without the batch": ((8, 8, 1), True),
    "without any ones": ((8, 8), True),
    "flat": ((64,), False),
    "channels first": ((1, 1, 8, 8), False),
    "two samples": ((2, 8, 8, 1), False),
    "another size": ((8, 9), False),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_sample_fits_with_or_without_dimensions_of_one(case: str) -> None:
    shape, fits = SHAPES[case]
    spec = _spec("float32", None, None, (1, 8, 8, 1))
    sample = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    if fits:
        (tensor,) = to_model_inputs([sample], [spec])
        assert tensor.shape == spec.shape
        assert (tensor.reshape(-1) == sample.reshape(-1)).all()
        return
    with pytest.raises(SampleError) as caught:
        to_model_inputs([sample], [spec])
    assert caught.value.message == (f"a sample of input 'in' has shape {list(shape)}, the model expects [1, 8, 8, 1]")


def test_another_number_of_arrays_than_inputs_is_refused() -> None:
    with pytest.raises(SampleError) as caught:
        to_model_inputs([np.zeros(4), np.zeros(4)], [_spec()])
    assert caught.value.message == "a sample has 2 arrays, the model has 1 inputs"


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.zeros((1, 2), complex), "float32", "a sample of input 'x' has the type complex128, expected numbers"),
        (np.zeros((1, 2), "M8[s]"), "float32", "a sample of input 'x' has the type datetime64[s], expected numbers"),
        (np.array([["a", "b"]]), "float32", "a sample of input 'x' has the type <U1, expected numbers"),
        (np.array([[1.0, 1.5]]), "int32", "a sample of input 'x' has a number that is no int32"),
        (np.array([[1, 1 << 40]]), "int32", "a sample of input 'x' has a number that is no int32"),
        (np.array([[1.0, np.nan]]), "int32", "a sample of input 'x' has a number that is no int32"),
        (np.array([[1, 256]]), "uint8", "a sample of input 'x' has a number that is no uint8"),
    ],
)
def test_what_a_tensor_would_take_as_another_number_is_refused(value: np.ndarray, dtype: str, message: str) -> None:
    spec = TensorSpec(name="x", shape=(1, 2), dtype=dtype)
    with pytest.raises(SampleError) as refused:
        to_model_inputs([value], [spec])
    assert refused.value.message == message


def test_whole_floats_are_good_integers() -> None:
    [got] = to_model_inputs([np.array([3.0, 4.0])], [TensorSpec(name="x", shape=(1, 2), dtype="int32")])
    assert (got.dtype, got.tolist()) == (np.dtype(np.int32), [[3, 4]])


def test_a_single_number_is_a_sample_of_a_tensor_without_dimensions() -> None:
    samples = np.array([0.6, 3.0])
    (fed,) = to_model_inputs([samples[0]], [_spec(shape=())])
    assert (fed.shape, fed.dtype, fed.tolist()) == ((), np.int8, 1)
