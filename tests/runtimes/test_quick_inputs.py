# SPDX-License-Identifier: Apache-2.0
"""The short way of a usual input makes the same bits as the long way; what is not usual is left to the long way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgefleet.contracts.manifest import FeaturePreprocessing, ImagePreprocessing, Preprocessing, TensorSpec
from edgefleet.runtimes.preprocessing import preprocess
from edgefleet.runtimes.quick_inputs import quick_input
from edgefleet.runtimes.tensors import to_model_inputs

LEVELS = st.tuples(st.sampled_from(["int8", "uint8"]), st.floats(1e-3, 100.0), st.integers(-128, 255))
PLAIN = Preprocessing()
FLOAT = TensorSpec(name="x", shape=(1, 3), dtype="float32")
INT8 = TensorSpec(name="x", shape=(1, 3), dtype="int8", scale=0.5, zero_point=-3)
NUMBERS = np.array([[1.0, -2.0, 3.0]], np.float32)


def _same(value, spec, how=PLAIN):
    """Compare both ways, and return whether the short one was taken."""
    tensor = quick_input((spec,), how)(value)
    if tensor is None:
        return False
    (expected,) = to_model_inputs([preprocess(value, how)], (spec,))
    assert tensor.dtype == expected.dtype
    np.testing.assert_array_equal(tensor, expected)
    _same_in_place(value, spec, how, expected)
    return True


def _same_in_place(value, spec, how, expected):
    """With a place for the tensor, what has to be computed is written there; what has not is left where it is."""
    place = np.full(spec.shape, 77, spec.dtype)
    fill = quick_input((spec,), how, place)
    for _ in range(2):
        made = fill(value)
        np.testing.assert_array_equal(made, expected)
        assert (made is place) is (how.image is not None or spec.scale is not None)


@given(
    value=arrays.arrays(np.float32, (1, 4, 2), elements=st.floats(-(2.0**59), 2.0**59, width=32)),
    levels=LEVELS,
)
def test_finite_numbers_are_quantized_to_the_same_bits(value, levels):
    dtype, scale, zero_point = levels
    spec = TensorSpec(name="x", shape=(1, 4, 2), dtype=dtype, scale=scale, zero_point=zero_point)
    assert _same(value, spec)
    assert _same(value[0, ::-1], spec)


@given(
    picture=arrays.arrays(np.uint8, (3, 2, 3)),
    channels=st.sampled_from(["RGB", "BGR"]),
    scale=st.floats(-300.0, 300.0),
    offset=st.floats(-1e3, 1e3),
    levels=st.none() | LEVELS,
)
def test_pictures_of_the_model_s_size_become_the_same_bits(picture, channels, scale, offset, levels):
    how = Preprocessing(image=ImagePreprocessing(size=(3, 2), channels=channels, scale=scale, offset=offset))
    dtype, step, zero_point = levels or ("float32", None, None)
    spec = TensorSpec(name="x", shape=(1, 3, 2, 3), dtype=dtype, scale=step, zero_point=zero_point)
    assert _same(picture, spec, how)
    assert _same(picture[::-1, ::-1], spec, how)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 1)])
def test_grey_pictures_become_the_same_bits(shape):
    how = Preprocessing(image=ImagePreprocessing(size=(3, 2), channels="GRAY", scale=1 / 255))
    picture = np.arange(6, dtype=np.uint8).reshape(shape)
    assert _same(picture, TensorSpec(name="x", shape=(1, 3, 2, 1), dtype="float32"), how)


def test_the_model_s_own_numbers_are_taken_as_they_are():
    assert quick_input((FLOAT,), PLAIN)(NUMBERS) is NUMBERS
    assert _same(NUMBERS[0], FLOAT)
    whole = np.array([[1, 2, 3]], np.int32)
    assert quick_input((TensorSpec(name="x", shape=(1, 3), dtype="int32"),), PLAIN)(whole) is whole


@pytest.mark.filterwarnings("ignore:overflow encountered in dot")
@pytest.mark.parametrize("spec", [FLOAT, INT8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_may_not_be_finite_is_left_to_the_long_way(spec, value):
    assert quick_input((spec,), PLAIN)(np.array([[0.0, value, 0.0]], np.float32)) is None


@pytest.mark.parametrize(
    ("specs", "how", "value"),
    [
        ((FLOAT,), PLAIN, NUMBERS[:, None]),
        ((FLOAT,), PLAIN, NUMBERS.astype(np.float64)),
        ((FLOAT,), PLAIN, NUMBERS.astype(">f4")),
        ((INT8,), PLAIN, NUMBERS[:, None]),
        ((INT8,), PLAIN, NUMBERS.astype(np.int8)),
        ((FLOAT, FLOAT), PLAIN, NUMBERS),
        ((TensorSpec(name="x", shape=(1, 3), dtype="int8", scale=1e-20, zero_point=0),), PLAIN, NUMBERS),
        ((FLOAT,), Preprocessing(features=FeaturePreprocessing(mean=(0.0,) * 3, deviation=(1.0,) * 3)), NUMBERS[0]),
        ((FLOAT,), Preprocessing(image=ImagePreprocessing(size=(1, 1))), np.zeros((2, 2, 3), np.uint8)),
        ((FLOAT,), Preprocessing(image=ImagePreprocessing(size=(1, 1))), np.zeros((1, 1, 3), np.uint8)),
        (
            (FLOAT,),
            Preprocessing(image=ImagePreprocessing(size=(1, 3), channels="GRAY")),
            np.zeros((1, 3, 3), np.uint8),
        ),
        ((FLOAT,), Preprocessing(image=ImagePreprocessing(size=(1, 1), scale=1e300)), np.zeros((1, 1, 3), np.uint8)),
    ],
)
def test_what_is_not_usual_is_left_to_the_long_way(specs, how, value):
    assert quick_input(specs, how)(value) is None
