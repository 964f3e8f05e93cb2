# SPDX-License-Identifier: Apache-2.0
"""What an application was built for against what a release offers."""

import pytest

from edgefleet.contracts.interface import NeededInterface, NeededTensor, differences
from edgefleet.contracts.manifest import Interface, TensorSpec

OFFERED = Interface(
    inputs=(TensorSpec(name="picture", shape=(1, 8, 8, 1), dtype="float32"),),
    outputs=(TensorSpec(name="scores", shape=(1, 3), dtype="int8", scale=0.1, zero_point=0),),
    labels=("cat", "dog", "cow"),
)


def test_nothing_needed_fits_anything():
    assert differences(NeededInterface(), OFFERED) == ()


def test_the_same_interface_fits():
    needed = NeededInterface(
        inputs=(NeededTensor(name="picture", shape=(1, 8, 8, 1), dtype="float32"),),
        outputs=(NeededTensor(shape=(1, 3)),),
        labels=("cat", "dog", "cow"),
    )
    assert differences(needed, OFFERED) == ()


@pytest.mark.parametrize(
    ("needed", "told"),
    [
        (NeededInterface(inputs=()), ("the application needs 0 inputs, the release has 1",)),
        (
            NeededInterface(inputs=(NeededTensor(name="image", shape=(1, 9, 9, 1), dtype="uint8"),)),
            (
                "input 0: the application needs the name 'image', the release has 'picture'",
                "input 0: the application needs the shape [1, 9, 9, 1], the release has [1, 8, 8, 1]",
                "input 0: the application needs the dtype 'uint8', the release has 'float32'",
            ),
        ),
        (
            NeededInterface(outputs=(NeededTensor(shape=(1, 4)),)),
            ("output 0: the application needs the shape [1, 4], the release has [1, 3]",),
        ),
        (NeededInterface(labels=("cat",)), ("the application needs 1 labels, the release has 3",)),
        (NeededInterface(labels=("dog", "cat", "cow")), ("labels: 0 'dog' is 'cat', 1 'cat' is 'dog'",)),
    ],
)
def test_each_difference_is_told_by_name(needed, told):
    assert differences(needed, OFFERED) == told
