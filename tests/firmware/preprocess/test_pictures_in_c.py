# SPDX-License-Identifier: Apache-2.0
"""Pictures: C and the reference make the same bytes, whatever the sizes, filters, channels and scales."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.preprocessing_cases.case import Case
from converter.c.core.preprocessing import Frame, generate_preprocessing
from edgefleet.contracts.errors import SampleError, UnsupportedModelError
from edgefleet.contracts.manifest import ImagePreprocessing, Preprocessing, TensorSpec

CHOSEN = [
    ((240, 320, 3), (96, 96), "BGR", "bilinear"),
    ((120, 160, 1), (96, 96), "RGB", "area"),
    ((96, 96, 3), (96, 96), "GRAY", "area"),  # no resizing
    ((96, 97, 1), (96, 96), "GRAY", "bilinear"),  # of one axis only
    ((97, 641, 3), (41, 40), "RGB", "bilinear"),  # 64-bit sums
    ((1, 1, 3), (4, 4), "RGB", "bilinear"),
    ((5, 3, 3), (17, 2), "BGR", "area"),  # one axis grows, one shrinks
]


def preprocessing(size: tuple[int, int], channels: str, resize: str, scale: float, offset: float) -> Preprocessing:
    image: Any = {"size": size, "channels": channels, "resize": resize, "scale": scale, "offset": offset}
    return Preprocessing(image=ImagePreprocessing(**image))


def int8(*shape: int, scale: float = 1 / 255, zero_point: int = -128) -> TensorSpec:
    return TensorSpec(name="input", shape=(1, *shape), dtype="int8", scale=scale, zero_point=zero_point)


def drawn(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int], str, str]:
    frame = (*(int(side) for side in rng.integers(1, 90, 2)), int(rng.choice([1, 3])))
    size = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
    return frame, size, str(rng.choice(["RGB", "BGR", "GRAY"])), str(rng.choice(["bilinear", "nearest", "area"]))


def pictures(rng: np.random.Generator, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Noise, white, and black against white: the largest sums, and halves."""
    noise = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    return np.concatenate([noise, np.full((1, *shape), 255, np.uint8), rng.choice([0, 255], (1, *shape)).astype("u1")])


def test_every_byte_of_pictures_is_the_reference_s(compiled: Any) -> None:
    rng = np.random.default_rng(4)
    cases = []
    for frame, size, channels, resize in [*CHOSEN, *(drawn(rng) for _ in range(40))]:
        scale, zero_point = float(rng.choice([1 / 255, 2 / 255, 1.0])), int(rng.integers(-128, 128))
        how = preprocessing(size, channels, resize, float(rng.choice([1 / 255, 1 / 127.5, 1.0])), rng.choice([0, -1]))
        spec = int8(*size, 1 if channels == "GRAY" else 3, scale=scale, zero_point=zero_point)
        cases.append(Case(how, spec, math.prod(frame), Frame(*frame)))
    run = compiled(cases)
    for number, (one, frame) in enumerate((one, one.frame) for one in cases):
        batch = pictures(rng, (frame.height, frame.width, frame.channels))
        differ = int((run(number, batch) != one.expected(batch)).sum())
        assert differ == 0, f"{one.how} of {frame}: {differ} bytes differ"


def test_without_a_frame_pictures_come_in_the_model_s_own_size() -> None:
    made = generate_preprocessing(preprocessing((8, 9), "BGR", "bilinear", 1.0, 0.0), int8(8, 9, 3), name="small")
    assert sorted(made.sources) == ["small_preprocess.c", "small_preprocess.h"]
    assert made.kernel_sources == ("preprocess/picture.c",)
    assert made.scratch_bytes == 0
    assert "Pictures: 8 x 9 RGB -> 8 x 9 BGR, bilinear, exact." in made.sources["small_preprocess.h"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(20000, 8), "no C makes 8 × 8 pixels of a frame of 20000 × 8 × 3: sides are 1 to 16383 pixels, "
                          "channels 1 or 3"),
        (Frame(8, 8, 4), "no C makes 8 × 8 pixels of a frame of 8 × 8 × 4: sides are 1 to 16383 pixels, "
                         "channels 1 or 3"),
        (Frame(8, 16001), "no C resizes 16001 pixels to 8: the weights leave 32 bits"),
    ],
)  # fmt: skip
def test_a_frame_that_the_kernel_has_no_numbers_for_is_refused(frame: Frame, message: str) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        generate_preprocessing(
            preprocessing((8, 8), "GRAY", "bilinear", 1.0, 0.0), int8(8, 8, 1), name="m", frame=frame
        )
    assert refused.value.message == message


def test_an_input_of_another_type_or_shape_is_refused_by_name() -> None:
    how = preprocessing((8, 8), "GRAY", "bilinear", 1.0, 0.0)
    with pytest.raises(UnsupportedModelError) as refused:
        generate_preprocessing(how, TensorSpec(name="x", shape=(1, 8, 8, 1), dtype="float32"), name="m")
    assert refused.value.message == (
        "the preprocessing for the input 'x' cannot be written as C: it is float32, and C makes int8 inputs"
    )
    with pytest.raises(SampleError) as refused_shape:
        generate_preprocessing(how, int8(8, 8, 3), name="m")
    assert (
        refused_shape.value.message == "the preprocessing makes the shape [8, 8, 1], the input 'input' has [1, 8, 8, 3]"
    )
