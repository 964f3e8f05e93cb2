# SPDX-License-Identifier: Apache-2.0
"""Pictures, listings and arrays as people have them: read right, or refused in one sentence before anything runs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converter.adapters.samples.sets import open_samples
from converter.core.request import check_preprocessing
from converter.core.scoring import (
    Metric,
    area_under_roc,
    check_labels,
    compare,
    default_metric,
    score,
    squared_error,
)
from edgefleet.contracts.errors import InputError, SampleError
from edgefleet.contracts.manifest import ImagePreprocessing, Preprocessing, TensorSpec

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 5), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with the picture a.png; labels.csv is up to the test."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(PIXELS).save(folder / "a.png")
    return folder


def refusal(folder: Path, listing: str) -> str:
    (folder / "labels.csv").write_text(listing)
    with pytest.raises(SampleError) as refused:
        open_samples(folder, ["x"])
    return refused.value.message


@pytest.mark.parametrize("listing", [b"file,label\r\na.png,1\r\n", b"\xef\xbb\xbffile,label\na.png, 1\n  \n\n"])
def test_listings_of_other_systems_are_read(pictures: Path, listing: bytes) -> None:
    (pictures / "labels.csv").write_bytes(listing)
    samples = open_samples(pictures, ["x"])
    assert samples.labels is not None
    assert samples.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("a.png,1\na.png,1\n", "'pictures/labels.csv' begins with 'a.png', a picture, where its header is expected"),
        ("file,label\na.png,1\na.png,2\n", "'pictures/labels.csv' names 'a.png' twice"),
        ("file,label\n" + "b" * 5000 + ",1\n",
         f"'pictures/labels.csv' names '{'b' * 100}…', which is no file of the folder"),
        ("file,label\n../a.png,1\n", "'pictures/labels.csv' names '../a.png', which is no file of the folder"),
        ("file,label\na.png," + "9" * 30 + "\n",
         f"'pictures/labels.csv' has the label '{'9' * 30}', which is neither a number nor a known class"),
        ("file,label\na.png,1_0\n",
         "'pictures/labels.csv' has the label '1_0', which is neither a number nor a known class"),
    ],
)  # fmt: skip
def test_a_listing_that_contradicts_itself(pictures: Path, listing: str, message: str) -> None:
    assert refusal(pictures, listing) == message


def test_a_grey_picture_of_16_bits_keeps_its_greys(pictures: Path) -> None:
    Image.fromarray(PIXELS.astype(np.uint16) * 257).save(pictures / "deep.png")
    (pictures / "labels.csv").write_text("file,label\na.png,0\ndeep.png,0\n")
    samples = open_samples(pictures, ["x"])
    np.testing.assert_array_equal(samples.raw(1)[0], samples.raw(0)[0])


def test_a_picture_whose_pixels_have_no_range(pictures: Path) -> None:
    Image.fromarray(PIXELS.astype(np.float32)).save(pictures / "f.tiff")
    (pictures / "labels.csv").write_text("file,label\nf.tiff,0\n")
    with pytest.raises(SampleError, match=r"^pictures: 'f.tiff' is not a readable picture$"):
        open_samples(pictures, ["x"]).raw(0)


def test_a_picture_of_too_many_pixels(pictures: Path) -> None:
    Image.new("1", (10000, 10000)).save(pictures / "big.png")
    (pictures / "labels.csv").write_text("file,label\nbig.png,0\n")
    with pytest.raises(
        SampleError, match=r"^pictures: 'big.png' has more pixels than a picture may have \(89478485\)$"
    ):
        open_samples(pictures, ["x"]).raw(0)


def spec(*shape: int) -> TensorSpec:
    return TensorSpec(name="x", shape=shape, dtype="float32")


def test_a_preprocessing_that_fits() -> None:
    check_preprocessing(Preprocessing(image=ImagePreprocessing(size=(9, 8), channels="GRAY")), [spec(1, 9, 8, 1)])
    check_preprocessing(Preprocessing(), [spec(1, 4)])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ImagePreprocessing(size=(100_000, 100_000)),
         "the preprocessing makes inputs of shape [1, 100000, 100000, 3], the model's input 'x' has [1, 8, 8, 3]"),
        (ImagePreprocessing(size=(8, 8), scale=float("nan")), "the preprocessing takes pixel × nan + 0.0"),
        (ImagePreprocessing(size=(8, 8), scale=0.0), "the preprocessing takes pixel × 0.0 + 0.0"),
        (ImagePreprocessing(size=(8, 8), offset=float("inf")), "the preprocessing takes pixel × 1.0 + inf"),
    ],
)  # fmt: skip
def test_a_preprocessing_that_cannot_be_right(image: ImagePreprocessing, message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_preprocessing(Preprocessing(image=image), [spec(1, 8, 8, 3)])
    assert refused.value.message == message


def test_regression_targets_may_lack_the_axis_of_a_single_value() -> None:
    outputs, targets = np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0])
    check_labels(targets, 1, task="regression", source="e.npz")
    assert squared_error(outputs, targets) == pytest.approx(1 / 3)
    assert default_metric("regression").function(outputs, targets[:, np.newaxis]) == pytest.approx(1 / 3)


def test_targets_of_another_size_than_the_answers() -> None:
    with pytest.raises(SampleError, match=r"^e.npz has targets of float64 with shape \[3\], expected 2 a sample$"):
        check_labels(np.zeros(3), 2, task="regression", source="e.npz")


def test_anomaly_labels_other_than_0_and_1() -> None:
    with pytest.raises(SampleError, match=r"^e.npz has labels that are neither 0 nor 1$"):
        check_labels(np.array([0, 2]), 640, task="anomaly", source="e.npz")


def test_a_metric_that_is_no_number_on_these_samples() -> None:
    with pytest.raises(SampleError) as refused:
        score(Metric("auc", area_under_roc), np.array([0.1, 0.2]), np.array([0, 0]), "anomaly")
    assert refused.value.message == "the metric 'auc' of the samples is nan, not a number that can be compared"


def test_a_float_model_that_answers_nan_is_not_compared() -> None:
    before = np.array([[0.5, 0.5], [np.nan, 0.5]])
    with pytest.raises(SampleError) as refused:
        compare(default_metric("classification"), before, np.zeros((2, 2)), np.array([0, 1]))
    assert refused.value.message == "the float model answers 1 of 2 evaluation samples with NaN or infinity"


def test_boxes_of_pictures_stand_in_lines(pictures: Path) -> None:
    Image.fromarray(PIXELS[::-1]).save(pictures / "b.png")
    Image.fromarray(PIXELS[:, ::-1]).save(pictures / "c.png")
    (pictures / "labels.csv").write_text(
        "file,y0,x0,y1,x1,class\nb.png,0,0,2,2.5,dog\na.png,,,,,\nb.png,1,1,3,3,0\nc.png,0,1,2,3,1\n"
    )
    samples = open_samples(pictures, ["x"], ["cat", "dog"])
    assert samples.labels is not None
    assert samples.labels.tolist() == [
        [[0, 0, 2, 2.5, 1], [1, 1, 3, 3, 0]],
        [[0, 0, 0, 0, -1], [0, 0, 0, 0, -1]],
        [[0, 1, 2, 3, 1], [0, 0, 0, 0, -1]],
    ]
    check_labels(samples.labels, 4, task="detection", source="pictures")
    before = [samples.digest(number) for number in range(3)]
    (pictures / "labels.csv").write_text("file,y0,x0,y1,x1,class\na.png,,,,,\nc.png,0,1,2,3,dog\n")
    fewer = open_samples(pictures, ["x"], ["cat", "dog"])
    assert [fewer.digest(0), fewer.digest(1)] == [before[1], before[2]]


@pytest.mark.parametrize("line", ["a.png,0,0,2,1", "a.png,0,0,two,2,1", "a.png,0,0,inf,2,1", "a.png,0,0,1,1,1,1"])
def test_a_line_that_is_no_box(pictures: Path, line: str) -> None:
    message = refusal(pictures, f"file,y0,x0,y1,x1,class\n{line}\n")
    assert message == "'pictures/labels.csv' has a line for 'a.png' that is no box"
