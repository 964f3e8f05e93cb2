# SPDX-License-Identifier: Apache-2.0
"""The usual input of a model with one input becomes its tensor in few steps: same bits as the long way, sooner.

The long way is :meth:`LoadedModel.prepare`. What may differ is decided once, from the manifest. An input that is not
the usual one, or that may hold NaN or infinity, takes the long way, which says what is wrong with it. Where the model's
own tensor stays in its place in memory, what is computed is written right there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import ImagePreprocessing, Preprocessing, TensorSpec
from edgefleet.runtimes.preprocessing import preprocess_image
from edgefleet.runtimes.tensors import integer_limits, quantize

Array = npt.NDArray[Any]
#: Returns the tensor, or None for an input that is not the usual one; not for two threads at once if it has a place.
QuickInput = Callable[[Array], Array | None]
_FLOAT = np.dtype(np.float32)
_BYTE = np.dtype(np.uint8)
_EIGHT_BITS = ("int8", "uint8")
#: A finite number over a scale of this or more stays finite, if its square is.
_SMALLEST_SCALE = 1e-15


def quick_input(specs: Sequence[TensorSpec], how: Preprocessing, place: Array | None = None) -> QuickInput:
    """Return the short way of the usual input of a model that takes ``specs`` after a preprocessing.

    With ``place``, where the model has its tensor, what has to be computed is written there, and ``place`` returned.
    """
    if len(specs) != 1 or how.audio or how.features:
        return lambda _: None
    spec = specs[0]
    if how.image:
        return _picture(how.image, spec, place)
    if spec.scale is None:
        return _as_is(spec)
    if spec.dtype in _EIGHT_BITS and spec.zero_point is not None and spec.scale >= _SMALLEST_SCALE:
        return _quantized(spec, spec.scale, spec.zero_point, place)
    return lambda _: None


def _as_is(spec: TensorSpec) -> QuickInput:
    """An application's numbers are the model's already, but for a batch dimension that they may lack."""
    dtype, shape, one, isfinite = np.dtype(spec.dtype), spec.shape, _of_one(spec), math.isfinite
    may_be_infinite = dtype.kind == "f"

    def as_is(value: Array) -> Array | None:
        if value.dtype is not dtype or (value.shape != shape and value.shape != one):
            return None
        if may_be_infinite:
            flat = value.ravel()
            if not isfinite(flat.dot(flat)):  # or the square of a number is not: that one is looked at closely
                return None
        return value if value.shape == shape else value.reshape(shape)

    return as_is


def _quantized(spec: TensorSpec, scale: float, zero_point: int, place: Array | None) -> QuickInput:
    """An application's real numbers are quantized as :func:`~edgefleet.runtimes.tensors.quantize` does it."""
    dtype, shape, one, isfinite = np.dtype(spec.dtype), spec.shape, _of_one(spec), math.isfinite
    low, high = (np.array(limit) for limit in integer_limits(spec.dtype))
    step, zero = np.array(scale, np.float32), np.array(zero_point, np.float32)
    divide, rint, add, maximum, minimum = np.divide, np.rint, np.add, np.maximum, np.minimum
    reused = None if place is None else np.empty(shape, np.float32)

    def quantized(value: Array) -> Array | None:
        if value.dtype is not _FLOAT or (value.shape != shape and value.shape != one):
            return None
        flat = value.ravel()
        if not isfinite(flat.dot(flat)):
            return None
        levels = divide(value, step, reused)
        rint(levels, levels)
        add(levels, zero, levels)
        maximum(levels, low, out=levels)
        minimum(levels, high, out=levels)
        if place is not None:
            place[...] = levels
            return place
        made = levels.astype(dtype)
        return made if made.shape == shape else made.reshape(shape)

    return quantized


def _of_one(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of an input without its batch dimension, where that is 1."""
    return spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape


def _picture(how: ImagePreprocessing, spec: TensorSpec, place: Array | None) -> QuickInput:
    """A picture of the model's own size: each of its bytes is looked up, as each pixel is made from its own alone."""
    channels = 1 if how.channels == "GRAY" else 3
    shapes = {(*how.size, channels)} | ({how.size} if channels == 1 else set())
    table = _table(how, spec)
    if table is None or spec.shape != (1, *how.size, channels):
        return lambda _: None
    numbers, texts, dtype, shape, reverse = table, table.tobytes(), table.dtype, spec.shape, how.channels == "BGR"
    of_bytes, empty = dtype.itemsize == 1, np.empty

    def looked_up(value: Array) -> Array | None:
        if value.dtype is not _BYTE or value.shape not in shapes:
            return None
        if of_bytes:
            found = np.frombuffer(value.tobytes().translate(texts), dtype).reshape(shape)
        else:
            found = numbers.take(value).reshape(shape)
        if not reverse and place is None:
            return found
        turned = empty(shape, dtype) if place is None else place
        if not reverse:
            turned[...] = found
            return turned
        # three planes are copied sooner than rows of three
        turned[..., 0], turned[..., 1], turned[..., 2] = found[..., 2], found[..., 1], found[..., 0]
        return turned

    return looked_up


def _table(how: ImagePreprocessing, spec: TensorSpec) -> Array | None:
    """Return what the long way makes of each byte; None where that is not finite, which it refuses in its own words."""
    line = ImagePreprocessing(size=(1, 256), channels="GRAY", scale=how.scale, offset=how.offset)
    real = preprocess_image(np.arange(256, dtype=np.uint8).reshape(1, 256), line)
    return quantize(real.reshape(256), spec) if np.isfinite(real).all() else None
