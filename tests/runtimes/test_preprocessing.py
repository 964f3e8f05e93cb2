# SPDX-License-Identifier: Apache-2.0
"""Preprocessing against Pillow, and against what the filters promise."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import ImagePreprocessing, Preprocessing
from edgefleet.runtimes.preprocessing import preprocess, preprocess_image

Image = pytest.importorskip("PIL.Image", reason="Pillow (extra 'converter') is the reference for resizing")
Filter = Literal["bilinear", "nearest", "area"]
SIDES = st.integers(1, 40)
PICTURES = st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.uint8, (*size, 3)))


def _resized(picture: np.ndarray, height: int, width: int, filter_name: Filter) -> np.ndarray:
    return preprocess_image(picture, ImagePreprocessing(size=(height, width), resize=filter_name))


def _by_pillow(picture: np.ndarray, height: int, width: int, resample: Any) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), resample)).astype(np.float64)


@given(picture=PICTURES, height=SIDES, width=SIDES)
def test_bilinear_is_pillows_within_one_grey_level(picture: np.ndarray, height: int, width: int) -> None:
    ours = _resized(picture, height, width, "bilinear")
    assert ours.shape == (height, width, 3)
    assert np.abs(ours - _by_pillow(picture, height, width, Image.Resampling.BILINEAR)).max() <= 1.0


@given(side=st.integers(1, 8), factor=st.integers(2, 5), data=st.data())
def test_area_is_pillows_box_within_one_grey_level_where_it_shrinks_by_a_whole_factor(
    side: int, factor: int, data: st.DataObject
) -> None:
    picture = data.draw(arrays(np.uint8, (side * factor, side * factor, 3)))
    ours = _resized(picture, side, side, "area")
    assert np.abs(ours - _by_pillow(picture, side, side, Image.Resampling.BOX)).max() <= 1.0


@given(picture=PICTURES, height=SIDES, width=SIDES)
def test_area_weighs_each_pixel_by_the_surface_it_covers(picture: np.ndarray, height: int, width: int) -> None:
    # Repeating each pixel on a common grid and averaging whole blocks is the definition, in exact integers.
    rows, columns = picture.shape[:2]
    grid = np.repeat(np.repeat(picture.astype(np.int64), height, axis=0), width, axis=1)
    blocks = grid.reshape(height, rows, width, columns, 3).sum(axis=(1, 3))
    exact = blocks / (rows * columns)
    assert np.abs(_resized(picture, height, width, "area") - exact).max() <= 0.5 + 1e-9


@given(picture=PICTURES, height=SIDES, width=SIDES)
def test_nearest_takes_the_pixel_under_each_centre(picture: np.ndarray, height: int, width: int) -> None:
    # In whole numbers: Pillow rounds differently where a centre lies exactly between two pixels.
    rows = [(2 * i + 1) * picture.shape[0] // (2 * height) for i in range(height)]
    columns = [(2 * i + 1) * picture.shape[1] // (2 * width) for i in range(width)]
    assert (_resized(picture, height, width, "nearest") == picture[rows][:, columns]).all()


@given(level=st.integers(0, 255), height=SIDES, width=SIDES, filter_name=st.sampled_from(["bilinear", "area"]))
def test_a_plain_picture_stays_plain(level: int, height: int, width: int, filter_name: Filter) -> None:
    picture = np.full((17, 23, 3), level, np.uint8)
    assert (_resized(picture, height, width, filter_name) == level).all()


def test_channels_come_in_the_order_that_is_asked_for() -> None:
    picture = np.array([[[10, 20, 30]]], np.uint8)

    def channels(order: Literal["RGB", "BGR", "GRAY"]) -> list[float]:
        return list(preprocess_image(picture, ImagePreprocessing(size=(1, 1), channels=order)).reshape(-1))

    assert channels("RGB") == [10.0, 20.0, 30.0]
    assert channels("BGR") == [30.0, 20.0, 10.0]
    assert channels("GRAY") == [18.0]  # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15


def test_a_grey_picture_becomes_three_equal_channels_or_stays_one() -> None:
    picture = np.array([[7, 9]], np.uint8)
    colour = preprocess_image(picture, ImagePreprocessing(size=(1, 2)))
    grey = preprocess_image(picture[:, :, np.newaxis], ImagePreprocessing(size=(1, 2), channels="GRAY"))
    assert colour.tolist() == [[[7.0] * 3, [9.0] * 3]]
    assert grey.tolist() == [[[7.0], [9.0]]]


def test_scale_and_offset_come_last() -> None:
    picture = np.array([[[0, 128, 255]]], np.uint8)
    scaled = preprocess_image(picture, ImagePreprocessing(size=(1, 1), scale=2.0 / 255.0, offset=-1.0))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.reshape(-1), [-1.0, 1.0 / 255.0, 1.0], rtol=0, atol=1e-6)


def test_without_preprocessing_an_input_is_left_alone() -> None:
    raw = np.array([1.5, np.inf])
    assert preprocess(raw, Preprocessing()) is raw


@pytest.mark.parametrize(
    ("picture", "described"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 with shape [4, 4, 3]"),
        (np.zeros((4, 4, 4), np.uint8), "uint8 with shape [4, 4, 4]"),
        (np.zeros((1, 4, 4, 3), np.uint8), "uint8 with shape [1, 4, 4, 3]"),
        (np.zeros(16, np.uint8), "uint8 with shape [16]"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 with shape [0, 4, 3]"),
    ],
)
def test_what_is_no_picture_is_refused(picture: np.ndarray, described: str) -> None:
    with pytest.raises(SampleError) as caught:
        preprocess(picture, Preprocessing(image=ImagePreprocessing(size=(2, 2))))
    assert caught.value.message == (
        f"a picture is an array of {described}, expected uint8 [height, width, 3] (RGB) or [height, width] (grey)"
    )


def test_a_pixel_that_is_scaled_beyond_float32_is_infinite_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    how = ImagePreprocessing(size=(1, 1), channels="GRAY", scale=1e38)
    assert preprocess_image(np.full((1, 1), 255, np.uint8), how).tolist() == [[[np.inf]]]
    assert not recwarn.list


def test_a_size_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(SampleError) as refused:
        preprocess_image(np.zeros((8, 8), np.uint8), ImagePreprocessing(size=(10_000_000, 10_000_000)))
    assert refused.value.message == (
        "the preprocessing makes pictures of 10000000 × 10000000 pixels, over the limit of 67108864"
    )


@given(picture=PICTURES)
def test_grey_is_rounded_half_up_in_whole_numbers(picture: np.ndarray) -> None:
    # One colour in a thousand lies exactly between two levels, where sums of 0.299, 0.587 and 0.114 go either way.
    red, green, blue = (picture[:, :, channel].astype(np.int64) for channel in range(3))
    exact = (299 * red + 587 * green + 114 * blue + 500) // 1000
    how = ImagePreprocessing(size=picture.shape[:2], channels="GRAY")
    assert (preprocess_image(picture, how)[:, :, 0] == exact).all()


@given(picture=PICTURES, height=SIDES, width=SIDES)
def test_area_is_rounded_half_up_in_whole_numbers(picture: np.ndarray, height: int, width: int) -> None:
    rows, columns = picture.shape[:2]
    grid = np.repeat(np.repeat(picture.astype(np.int64), height, axis=0), width, axis=1)
    sums = grid.reshape(height, rows, width, columns, 3).sum(axis=(1, 3))
    assert (_resized(picture, height, width, "area") == (2 * sums + rows * columns) // (2 * rows * columns)).all()
