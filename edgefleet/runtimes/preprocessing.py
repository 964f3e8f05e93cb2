# SPDX-License-Identifier: Apache-2.0
"""From a product's raw input to the model's real-valued input: the one implementation for converter and device.

Resizing maps pixel centres (output centre ``(i + 0.5) * in / out``), with a triangle filter whose support grows with
the factor when shrinking (as Pillow's antialiased resize does), a box filter for ``area``, and rounds half up.

Whole numbers are added and one division is made at the end, so that no processor rounds a pixel otherwise: sums stay
below 2^53, which float64 holds exactly in any order of addition.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import FeaturePreprocessing, ImagePreprocessing, Preprocessing
from edgefleet.runtimes.audio import audio_shape, check_audio, preprocess_audio

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
_DIMENSIONS = 3
#: No model for an edge device takes more; a bundle that says so would exhaust the memory.
_MOST_PIXELS = 1 << 26
#: Of the filter weights of one axis: with two axes and 8-bit pixels, sums stay below 2^53.
_LARGEST_TOTAL = 1 << 22


def preprocess(raw: Array, how: Preprocessing) -> Array:
    """Apply a bundle's preprocessing to one raw input; without any the input is returned as it is.

    Raises:
        SampleError: the input is not what the preprocessing starts from.
    """
    if how.image is not None:
        return preprocess_image(raw, how.image)
    if how.audio is not None:
        return preprocess_audio(raw, how.audio)
    if how.features is not None:
        return preprocess_features(raw, how.features)
    return raw


def check_parts(how: Preprocessing) -> None:
    """Refuse a preprocessing that says two things, or one that contradicts itself.

    Raises:
        SampleError: the message names the field.
    """
    parts = [name for name in ("image", "audio", "features") if getattr(how, name) is not None]
    if len(parts) > 1:
        raise SampleError(
            f"the preprocessing has [{parts[0]}] and [{parts[1]}], and an input is one of them",
            hint="keep the one that the samples are",
        )
    if how.audio is not None:
        check_audio(how.audio)
    if how.features is not None:
        _check_features(how.features)


def made_shape(how: Preprocessing) -> tuple[int, ...] | None:
    """Return the shape of what a preprocessing makes, without the batch dimension; None where it changes nothing."""
    if how.image is not None:
        return (*how.image.size, 1 if how.image.channels == "GRAY" else 3)
    if how.audio is not None:
        return audio_shape(how.audio)
    return None if how.features is None else (len(how.features.mean),)


def preprocess_features(row: Array, how: FeaturePreprocessing) -> Floats:
    """Turn a row of numbers, shape (columns,), into float32 values that are centred and scaled column by column.

    Raises:
        SampleError: the array is no such row, or the preprocessing contradicts itself.
    """
    _check_features(how)
    if row.dtype.kind not in "biuf" or row.shape != (len(how.mean),):
        raise SampleError(
            f"a row is an array of {row.dtype} with shape {list(row.shape)}, expected {len(how.mean)} numbers",
            hint="pass the columns that the preprocessing names a mean for, in its order",
        )
    with np.errstate(over="ignore"):  # too large for a float32 becomes infinite, which its readers refuse
        return ((row.astype(np.float64) - how.mean) / how.deviation).astype(np.float32)


def _check_features(how: FeaturePreprocessing) -> None:
    if len(how.mean) != len(how.deviation):
        raise SampleError(
            f"the preprocessing has {len(how.mean)} means and {len(how.deviation)} deviations",
            hint="give one of each for every column",
        )
    if not np.isfinite([*how.mean, *how.deviation]).all() or 0.0 in how.deviation:
        raise SampleError(
            "the preprocessing has a deviation of 0, or a number that is not finite",
            hint="leave out columns that never change, or give them the deviation 1",
        )


def preprocess_image(picture: Array, how: ImagePreprocessing) -> Floats:
    """Turn an 8-bit RGB (height, width, 3) or grey (height, width[, 1]) picture into float32 (h, w, channels).

    Raises:
        SampleError: the array is no 8-bit picture.
    """
    flat = picture.ndim in (2, _DIMENSIONS) and picture.shape[2:] in ((), (1,), (3,))
    if picture.dtype != np.uint8 or not flat or not picture.size:
        raise SampleError(
            f"a picture is an array of {picture.dtype} with shape {list(picture.shape)}, "
            "expected uint8 [height, width, 3] (RGB) or [height, width] (grey)",
            hint="pass the picture as it was decoded; the bundle's preprocessing scales it",
        )
    height, width = how.size
    if height * width > _MOST_PIXELS:
        raise SampleError(
            f"the preprocessing makes pictures of {height} × {width} pixels, over the limit of {_MOST_PIXELS}",
            hint="correct size in the preprocessing; a model for an edge device takes smaller pictures",
        )
    pixels = picture if picture.ndim == _DIMENSIONS else picture[:, :, np.newaxis]
    resized = _resize(pixels.astype(np.float64), how)
    channels = _pick_channels(resized, how.channels)
    with np.errstate(over="ignore"):  # too large for a float32 becomes infinite, which its readers refuse
        return (channels * how.scale + how.offset).astype(np.float32)


def _resize(pixels: npt.NDArray[np.float64], how: ImagePreprocessing) -> npt.NDArray[np.float64]:
    height, width = how.size
    if pixels.shape[:2] == (height, width):
        return pixels
    if how.resize == "nearest":
        rows = _nearest(pixels.shape[0], height)
        return pixels[rows][:, _nearest(pixels.shape[1], width)]
    down = _weights(pixels.shape[0], height, how.resize)
    across = _weights(pixels.shape[1], width, how.resize)
    columns = (down @ pixels.reshape(len(pixels), -1)).reshape(height, *pixels.shape[1:])  # exact, in any order
    sums = across @ columns
    totals = np.multiply.outer(down.sum(axis=1), across.sum(axis=1))[:, :, np.newaxis]
    return _half_up(sums, totals)


def _half_up(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return quotients of whole numbers, rounded half up; twice the numerator must stay below 2^53."""
    return np.asarray(np.floor((2.0 * numerator + denominator) / (2.0 * denominator)))


def _nearest(size_in: int, size_out: int) -> npt.NDArray[np.intp]:
    return np.minimum(((np.arange(size_out) + 0.5) * size_in / size_out).astype(np.intp), size_in - 1)


@lru_cache(maxsize=32)
def _weights(size_in: int, size_out: int, kind: str) -> npt.NDArray[np.float64]:
    """Return the (size_out, size_in) matrix of filter weights of one axis: whole numbers, at most 2^22 a row.

    Distances of centres are counted in steps of ``1 / (2 * size_out)`` of a pixel, in which all of them are whole.
    """
    inside, outside = 2 * np.arange(size_in) + 1, 2 * np.arange(size_out) + 1
    distance = np.abs(inside * size_out - outside[:, np.newaxis] * size_in)
    if kind == "area":
        weights = np.clip(size_in + size_out - distance, 0, 2 * min(size_in, size_out))
    else:
        weights = np.clip(2 * max(size_in, size_out) - distance, 0, None)
    totals = weights.sum(axis=1, keepdims=True)
    if totals.max() <= _LARGEST_TOTAL:
        return np.asarray(weights, dtype=np.float64)
    return np.asarray(np.floor(weights / totals * _LARGEST_TOTAL))  # a picture so large that no eye sees the difference


def _pick_channels(pixels: npt.NDArray[np.float64], channels: str) -> npt.NDArray[np.float64]:
    if channels == "GRAY":
        return pixels if pixels.shape[2] == 1 else _luma(pixels)
    colour = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return colour[:, :, ::-1] if channels == "BGR" else colour


def _luma(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ITU-R BT.601 luma (0.299, 0.587, 0.114) of whole levels, rounded half up to whole grey levels."""
    thousandths = 299.0 * pixels[:, :, :1] + 587.0 * pixels[:, :, 1:2] + 114.0 * pixels[:, :, 2:]
    return _half_up(thousandths, np.full(1, 1000.0))
