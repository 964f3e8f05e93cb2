# SPDX-License-Identifier: Apache-2.0
"""The converter's small decisions: canonical arrays, parity vectors, tolerances, scores, recipes."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.core.canonical_npz import canonical_npz
from converter.core.parity_choice import (
    made_up_inputs,
    parity_count,
    reference_tolerance,
    spread,
)
from converter.core.request import runtime_requirement
from converter.core.scoring import area_under_roc, compare, default_metric, histograms, score, top1
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.manifest import TensorSpec
from firmware_profiles import load_profile


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.sampled_from(["int8", "<i4", ">i4", "float32"]))
def test_an_npz_is_the_same_whatever_the_order_and_the_byte_order(data: bytes, dtype: str) -> None:
    x = np.frombuffer(data, np.uint8).astype(dtype)
    y = np.arange(len(x))
    written = canonical_npz({"x": x, "y": y})
    assert written == canonical_npz({"y": y, "x": x.astype(x.dtype.newbyteorder("<"))})
    with np.load(io.BytesIO(written)) as stored:
        assert np.array_equal(stored["x"], x)
        assert canonical_npz({name: stored[name] for name in stored.files}) == written


@pytest.mark.parametrize(
    ("sample_bytes", "available", "count"),
    [(64, None, 8), (64, 3, 3), (100_000, 50, 2), (40_000, 50, 6), (1 << 30, 1, 1)],
)
def test_parity_vectors_are_few_where_they_are_large(sample_bytes: int, available: int | None, count: int) -> None:
    assert parity_count(sample_bytes, available) == count


@given(st.integers(1, 8), st.integers(8, 500))
def test_parity_samples_are_spread_over_the_set(count: int, available: int) -> None:
    places = spread(count, available)
    assert len(set(places)) == count
    assert 0 == places[0] <= places[-1] < available


def test_made_up_inputs_are_the_same_for_ever() -> None:
    specs = (TensorSpec(name="a", shape=(1, 4), dtype="int8"), TensorSpec(name="b", shape=(1, 2), dtype="float32"))
    a, b = made_up_inputs(specs, 0)
    assert a.tolist() == made_up_inputs(specs, 0)[0].tolist() != made_up_inputs(specs, 1)[0].tolist()
    assert sha256_hex(a.tobytes() + b.tobytes()) == "c0c65d7828030c2f1e854cfee049f51364064c592b10037283bb09dffd93f04b"
    assert ((b >= 0) & (b < 1)).all()


def test_reference_kernels_are_exact_for_integers_only() -> None:
    assert reference_tolerance("lsb", 127.0) == 0.0
    assert reference_tolerance("absolute", 0.9) == 2.0**-16


def test_an_answer_that_is_not_finite_has_no_class() -> None:
    assert top1(np.array([[0.1, 0.9], [np.nan, 0.5], [np.inf, 0.0]])).tolist() == [1, -1, -1]


def test_a_score_has_the_recall_of_each_class() -> None:
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    found = score(default_metric("classification"), outputs, np.array([0, 1, 1, 1]), "classification")
    assert (found.value, found.samples, found.per_class) == (0.75, 4, (1.0, pytest.approx(2 / 3)))


def test_a_comparison_is_paired_and_has_a_sign() -> None:
    before = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    after = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.4, 0.6]])
    found = compare(default_metric("classification"), before, after, np.array([0, 1, 0, 1]))
    assert (found.float_value, found.difference, found.top1_agreement) == (1.0, -0.25, 0.75)
    assert found.mean_abs_delta == pytest.approx(0.1)
    assert found.interval.low < -0.25 < found.interval.high


def test_a_comparison_of_another_metric_is_resampled_the_same_way_each_time() -> None:
    outputs, labels = np.arange(20.0)[:, np.newaxis], np.arange(20.0)[:, np.newaxis] + 1.0
    first, second = (compare(default_metric("regression"), outputs, outputs + 0.5, labels) for _ in range(2))
    assert first == second
    assert first.difference == pytest.approx(-0.75)


def test_the_area_under_the_curve_counts_ties_half() -> None:
    assert area_under_roc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])) == pytest.approx(0.875)


def test_histograms_count_classes_and_confidences() -> None:
    found = histograms(np.array([[0.97, 0.03], [0.02, 0.98], [0.49, 0.51], [np.nan, 0.0]]))
    assert found.classes == (1, 2)
    assert [number for number, count in enumerate(found.confidence) if count] == [10, 19]
    assert sum(found.confidence) == 3


@pytest.mark.parametrize(
    ("profile", "proved_with", "minimum"),
    [("linux-x86_64", "2.3.0", "2.3.0"), ("linux-x86_64", "2.4.0", "2.3.0"), ("linux-x86_64", "2.2.0", "2.2.0"),
     ("mps2-an386", "2.3.0", "1")],
)  # fmt: skip
def test_the_minimum_runtime_is_the_boards_or_the_one_proved_with(profile: str, proved_with: str, minimum: str) -> None:
    found = runtime_requirement(load_profile(profile), proved_with=proved_with, oldest_tflite="1.14.0")
    assert found.minimum_version == minimum
