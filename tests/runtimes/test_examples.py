# SPDX-License-Identifier: Apache-2.0
"""Labelled examples: read without unpickling, refused in one sentence, scored by top-1."""

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import Interface, TensorSpec
from edgefleet.runtimes.examples import AcceptanceScore, read_examples, score_acceptance
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.loaded_model import LoadedModel

BundleMaker = Callable[..., Bundle]
INTERFACE = Interface(
    inputs=(TensorSpec(name="left", shape=(1, 4), dtype="int8"), TensorSpec(name="right", shape=(1, 2), dtype="int8")),
    outputs=(TensorSpec(name="out", shape=(1, 2), dtype="int8"),),
)


def _npz(compressed: bool = False, **arrays: Any) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_several_inputs_are_read_by_name_in_the_order_of_the_interface() -> None:
    right, left, y = np.zeros((3, 2)), np.ones((3, 4)), np.array([0, 1, 0])
    examples = read_examples(_npz(right=right, left=left, y=y), INTERFACE, source="p.npz")
    assert len(examples) == 3
    assert [value.shape for value in examples.sample(0)] == [(4,), (2,)]


def test_an_array_x_is_one_of_several_inputs_where_one_is_named_so() -> None:
    x, z = (TensorSpec(name=name, shape=(1, 2), dtype="int8") for name in "xz")
    stored = _npz(x=np.zeros((3, 2)), z=np.ones((3, 2)), y=np.arange(3))
    examples = read_examples(stored, Interface(inputs=(x, z), outputs=(z,)), source="p.npz")
    assert [value.tolist() for value in examples.sample(0)] == [[0.0, 0.0], [1.0, 1.0]]


def test_x_stands_for_the_only_input() -> None:
    examples = read_examples(_npz(x=np.arange(6).reshape(3, 2), y=np.arange(3)), INTERFACE, source="p.npz")
    assert examples.sample(2)[0].tolist() == [4, 5]


REFUSALS = {
    "nothing": (b"", "p.npz is not a readable .npz: it is no zip file"),
    "a bare array": (_npy(np.zeros(3)), "p.npz is not a readable .npz: it is no zip file"),
    "Python objects": (
        _npz(x=np.array([{}], dtype=object), y=np.zeros(1)),
        "p.npz is not a readable .npz: Object arrays cannot be loaded when allow_pickle=False",
    ),
    "no labels": (_npz(x=np.zeros(3)), "p.npz has no array 'y', only ['x']"),
    "a missing input": (_npz(left=np.zeros(3), y=np.zeros(3)), "p.npz has no array 'right', only ['left', 'y']"),
    "different lengths": (
        _npz(x=np.zeros((3, 2)), y=np.zeros(2)),
        "p.npz has arrays of different or no length: {'x': 3, 'y': 2}",
    ),
    "no samples": (
        _npz(x=np.zeros((0, 2)), y=np.zeros(0)),
        "p.npz has arrays of different or no length: {'x': 0, 'y': 0}",
    ),
    "single numbers": (_npz(x=1.0, y=2.0), "p.npz has arrays of different or no length: {'x': 0, 'y': 0}"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_used_is_refused_in_one_sentence(case: str) -> None:
    data, message = REFUSALS[case]
    with pytest.raises(SampleError) as caught:
        read_examples(data, INTERFACE, source="p.npz")
    assert caught.value.message == message
    assert (
        caught.value.hint == "store arrays 'x' (or one named like each input) and 'y', the first axis counting samples"
    )


@given(
    compressed=st.booleans(), cut=st.integers(0, 40), places=st.lists(st.tuples(st.integers(0), st.integers(0, 255)))
)
def test_a_damaged_file_is_refused_or_read_and_never_crashes(
    compressed: bool, cut: int, places: list[tuple[int, int]]
) -> None:
    data = bytearray(_npz(compressed, x=np.arange(40.0).reshape(10, 4), y=np.arange(10)))
    for place, value in places:
        data[place % len(data)] = value
    try:
        read_examples(bytes(data[: len(data) - cut]), INTERFACE, source="p.npz")
    except SampleError as error:
        assert re.fullmatch(r"p\.npz .+", error.message)  # noqa: PT017  # to be read is right as well


def test_acceptance_is_the_share_of_right_answers(
    digits_bundle: BundleMaker, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    plain = LoadedModel.from_bundle(digits_bundle())
    answers = [int(plain.answer([sample])[0].argmax()) for sample in digits_samples]
    labels = np.array(answers)
    labels[:2] = (labels[:2] + 1) % 10
    bundle = digits_bundle(acceptance=_npz(x=digits_samples[:, 0], y=labels))
    assert score_acceptance(LoadedModel.from_bundle(bundle), bundle) == AcceptanceScore(8, 0.75, 0)


def test_answers_that_are_not_finite_are_counted_and_never_right(
    digits_bundle: BundleMaker, nan_model: bytes, digits_samples: np.ndarray
) -> None:
    frames = np.concatenate([digits_samples[:1, 0], np.zeros((1, 8, 8, 1), np.float32)])
    bundle = digits_bundle(acceptance=_npz(x=frames, y=np.array([0, 0])))
    model = LoadedModel(bundle.manifest, LiteRtInterpreter(nan_model))
    first = int(model.answer([frames[0]])[0].argmax())
    score = score_acceptance(model, bundle)
    assert score == AcceptanceScore(2, 0.5 if first == 0 else 0.0, 1)


@pytest.mark.parametrize(
    ("labels", "described"),
    [
        (np.array([["a"]] * 8), "<U1 with shape [8, 1]"),
        (np.zeros((8, 2), np.int64), "int64 with shape [8, 2]"),
        (np.full(8, 0.5), "float64 with shape [8]"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(
    labels: np.ndarray, described: str, digits_bundle: BundleMaker, digits_samples: np.ndarray
) -> None:
    bundle = digits_bundle(acceptance=_npz(x=digits_samples[:, 0], y=labels))
    with pytest.raises(SampleError) as caught:
        score_acceptance(LoadedModel.from_bundle(bundle), bundle)
    assert caught.value.message == (
        f"golden/acceptance.npz has labels of {described}, expected class numbers with shape [samples]"
    )
