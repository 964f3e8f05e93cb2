# SPDX-License-Identifier: Apache-2.0
"""What outputs say: top class, confidence, finiteness, the rows of a detector that count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.answers import Answer, read_answer, silenced

SCORES = arrays(np.float32, st.integers(1, 12), elements=st.floats(-50, 50, width=32))


def _floats(*values: float) -> list[np.ndarray]:
    return [np.array([values], np.float32)]


@given(scores=SCORES)
def test_the_confidence_is_a_share_and_the_top_class_is_the_largest(scores: np.ndarray) -> None:
    answer = read_answer([scores])
    assert answer.top == int(np.argmax(scores))
    assert 0.0 < answer.confidence <= 1.0
    assert answer.finite


@given(scores=SCORES)
def test_logits_and_their_softmax_give_the_same_answer(scores: np.ndarray) -> None:
    wide = scores.astype(np.float64)
    softmax = np.exp(wide - wide.max()) / np.exp(wide - wide.max()).sum()
    if abs(wide.sum() - 1.0) < 0.05 and wide.min() >= 0.0:
        return  # these scores are a distribution themselves
    assert read_answer([scores]).confidence == pytest.approx(float(softmax.max()), abs=1e-4)


def test_a_distribution_is_its_own_confidence_even_when_quantized() -> None:
    assert read_answer(_floats(0.1, 0.7, 0.2)) == Answer(1, pytest.approx(0.7), finite=True)
    assert read_answer(_floats(0.0, 0.99609375, 0.0)).confidence == 0.99609375


def test_on_a_tie_the_lowest_class_wins() -> None:
    assert read_answer(_floats(0.5, 0.5)).top == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_in_any_output_spoils_the_answer(bad: float) -> None:
    assert read_answer(_floats(0.5, bad)) == Answer(-1, 0.0, finite=False)
    assert read_answer([*_floats(0.5, 0.5), *_floats(bad)]) == Answer(-1, 0.0, finite=False)


def test_rows_beyond_a_detectors_count_are_zeros() -> None:
    specs = [
        TensorSpec(name="boxes", shape=(1, 3, 4), dtype="float32"),
        TensorSpec(name="scores", shape=(1, 3), dtype="int8", scale=0.01, zero_point=-128),
        TensorSpec(name="count", shape=(1,), dtype="float32"),
    ]
    garbage = [np.full((1, 3, 4), np.nan, np.float32), np.full((1, 3), 7, np.int8), np.array([2.0], np.float32)]
    boxes, scores, count = silenced(garbage, specs, ("boxes", "scores", "count"))
    assert np.isnan(boxes[0]).sum(axis=1).tolist() == [4, 4, 0]
    assert (scores.tolist(), count.tolist()) == ([[7, 7, 0]], [2.0])
    assert garbage[1].tolist() == [[7, 7, 7]]
    assert silenced(garbage, specs, ())[1].tolist() == [[7, 7, 7]]


def test_a_count_that_is_no_number_silences_all_rows() -> None:
    specs = [
        TensorSpec(name="a", shape=(1,), dtype="float32"),
        TensorSpec(name="b", shape=(1, 2, 4), dtype="float32"),
        TensorSpec(name="c", shape=(1, 2), dtype="float32"),
    ]
    outputs = [np.array([np.nan], np.float32), np.ones((1, 2, 4), np.float32), np.ones((1, 2), np.float32)]
    assert not any(value.any() for value in silenced(outputs, specs, ("count", "boxes", "scores"))[1:])
