# SPDX-License-Identifier: Apache-2.0
"""The quick reader says of a model's tensors what :func:`read_answer` says of their real values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.answers import Answer, read_answer
from edgefleet.runtimes.quick_answers import answer_reader, as_arrays, bytes_reader
from edgefleet.runtimes.tensors import dequantize


def _same(spec, output):
    expected = read_answer([dequantize(output, spec)])
    readings = [answer_reader([spec])([output])]
    of_bytes = bytes_reader([spec])
    if of_bytes is not None:
        readings.append(of_bytes(output.tobytes()))
        np.testing.assert_array_equal(as_arrays(output.tobytes(), [spec])[0], output)
    for got in map(Answer._make, readings):
        assert (got.top, got.finite) == (expected.top, expected.finite)
        assert got.confidence == pytest.approx(expected.confidence, abs=1e-6)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in dot")
@given(
    output=arrays.arrays(np.float32, st.tuples(st.just(1), st.integers(1, 70)), elements=st.floats(width=32)),
)
def test_float_outputs_whatever_they_are(output):
    _same(TensorSpec(name="o", shape=output.shape, dtype="float32"), output)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in dot")
@given(
    output=arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=4), elements=st.floats(width=32)),
)
def test_float_outputs_of_any_shape(output):
    _same(TensorSpec(name="o", shape=output.shape, dtype="float32"), output)


@given(
    dtype=st.sampled_from(["int8", "uint8"]),
    scale=st.sampled_from([1 / 256, 0.1, 3.0]),
    zero_point=st.integers(-128, 127),
    data=st.data(),
)
def test_quantized_outputs_whatever_they_are(dtype, scale, zero_point, data):
    shape = (1, data.draw(st.integers(1, 130)))
    output = data.draw(arrays.arrays(np.dtype(dtype), shape))
    _same(TensorSpec(name="o", shape=shape, dtype=dtype, scale=scale, zero_point=zero_point), output)


@given(
    levels=arrays.arrays(np.uint8, st.tuples(st.just(1), st.integers(2, 300)), elements=st.integers(0, 6)),
    dtype=st.sampled_from(["int8", "uint8"]),
    total=st.integers(230, 280),
)
def test_quantized_distributions_of_few_and_many_classes(levels, dtype, total):
    raised = levels.astype(np.int64)
    raised[0, -1] = np.clip(total - raised[0, :-1].sum(), 0, 255)
    lowest = -128 if dtype == "int8" else 0
    spec = TensorSpec(name="o", shape=levels.shape, dtype=dtype, scale=1 / 256, zero_point=lowest)
    _same(spec, (raised + lowest).astype(dtype))


@pytest.mark.parametrize("levels", [[-128, 127, -128], [-44, -43, -41], [0, 0, 0]])
def test_a_quantized_distribution_gives_its_own_confidence(levels):
    spec = TensorSpec(name="o", shape=(1, 3), dtype="int8", scale=1 / 256, zero_point=-128)
    _same(spec, np.array([levels], np.int8))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 2)])
def test_outputs_that_are_no_row_of_classes_are_read_too(shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    _same(TensorSpec(name="o", shape=shape, dtype="float32"), values)


def test_a_second_output_that_is_not_finite_makes_the_answer_so():
    specs = [TensorSpec(name=name, shape=(1, 2), dtype="float32") for name in "ab"]
    fine, broken = np.zeros((1, 2), np.float32), np.array([[0.0, np.nan]], np.float32)
    assert Answer(*answer_reader(specs)([fine, fine])).finite
    assert not Answer(*answer_reader(specs)([fine, broken])).finite


@pytest.mark.parametrize(
    ("spec", "small"),
    [
        (TensorSpec(name="o", shape=(1, 10), dtype="float32"), True),
        (TensorSpec(name="o", shape=(1, 12), dtype="int8", scale=1 / 256, zero_point=-128), True),
        (TensorSpec(name="o", shape=(1, 1000), dtype="float32"), False),
        (TensorSpec(name="o", shape=(1, 1000), dtype="uint8", scale=1 / 256, zero_point=0), False),
        (TensorSpec(name="o", shape=(1, 2), dtype="int32"), False),
    ],
)
def test_bytes_are_read_of_small_outputs_only(spec, *, small):
    assert (bytes_reader([spec]) is not None) is small
    assert bytes_reader([spec, spec]) is None
