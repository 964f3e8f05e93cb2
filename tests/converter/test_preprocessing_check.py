# SPDX-License-Identifier: Apache-2.0
"""A wrong channel order or scale is noticed on labelled samples, and a right one is left alone."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from converter.adapters.samples.sets import ArraySamples, open_samples
from converter.preprocessing_check import better_preprocessing
from edgefleet.contracts.manifest import FeaturePreprocessing, ImagePreprocessing, Preprocessing

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
MODEL = (DIGITS / "v1_float32.tflite").read_bytes()
AS_IT_IS = Preprocessing()


def frames(scale: float, *, labelled: bool = True) -> ArraySamples:
    with np.load(DIGITS / "digits.npz") as stored:
        x, y = stored["live_x"][:100].astype(np.float32), stored["live_y"][:100]
    return ArraySamples("e.npz", [(x * np.float32(scale)).astype(np.float32)], y if labelled else None)


def test_the_right_scale_is_left_alone() -> None:
    assert better_preprocessing(MODEL, frames(1.0), AS_IT_IS, "classification") is None


def test_frames_that_were_divided_once_too_often() -> None:
    warning = better_preprocessing(MODEL, frames(1.0 / 255.0), AS_IT_IS, "classification")
    assert warning is not None
    assert warning.startswith("on 64 labelled samples the float model is right in ")
    assert "% multiplied by 255, and in " in warning
    assert warning.endswith("% as they come: check channel order and scale in the preprocessing")


def test_nothing_is_said_without_labels_of_other_tasks_or_of_columns() -> None:
    wrong = 1.0 / 255.0
    columns = Preprocessing(features=FeaturePreprocessing(mean=(0.0,), deviation=(1.0,)))
    assert better_preprocessing(MODEL, frames(wrong, labelled=False), AS_IT_IS, "classification") is None
    assert better_preprocessing(MODEL, frames(wrong), AS_IT_IS, "regression") is None
    assert better_preprocessing(MODEL, frames(wrong), columns, "classification") is None


@pytest.mark.parametrize(
    ("channels", "scale", "wrong"),
    [("BGR", 1.0 / 255.0, False), ("RGB", 1.0 / 255.0, True), ("BGR", 1.0, True)],
)
def test_pictures_in_another_order_or_scale(
    shared_dir: Path, channels: Literal["RGB", "BGR"], scale: float, wrong: bool
) -> None:
    model = (shared_dir / "models" / "vww_float32.tflite").read_bytes()
    samples = open_samples(shared_dir / "data" / "vww" / "evaluation", ["input_1"])
    how = Preprocessing(image=ImagePreprocessing(size=(96, 96), channels=channels, scale=scale))
    warning = better_preprocessing(model, samples, how, "classification")
    assert (warning is not None) == wrong
    if warning is not None:
        assert 'with channels = "BGR", scale = 0.00392157, offset = 0' in warning


def test_pictures_that_come_without_any_preprocessing(shared_dir: Path) -> None:
    model = (shared_dir / "models" / "vww_float32.tflite").read_bytes()
    samples = open_samples(shared_dir / "data" / "vww" / "evaluation", ["input_1"])
    warning = better_preprocessing(model, samples, AS_IT_IS, "classification")
    assert warning is not None
    assert 'with channels = "BGR", scale = 0.00392157, offset = 0' in warning
