# SPDX-License-Identifier: Apache-2.0
"""The probe that forks says what the probe that starts a Python says."""

from collections.abc import Callable

import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.runtimes.probe import probe_in_fork, probe_model


def split_instead_of_pool(model: bytes) -> bytes:
    """The one operator code whose change kills the interpreter."""
    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    for code in tree.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.MAX_POOL_2D:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SPLIT
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


def truncated(model: bytes) -> bytes:
    return model[: len(model) // 2]


@pytest.mark.parametrize("damage", [split_instead_of_pool, truncated])
def test_both_probes_refuse_in_the_same_words(digits_model: bytes, damage: Callable[[bytes], bytes]) -> None:
    said = []
    for probe in (probe_model, probe_in_fork):
        with pytest.raises(EdgeFleetError) as refused:
            probe(damage(digits_model), kernels="reference")
        said.append((type(refused.value), refused.value.message, refused.value.hint))
    assert said[0] == said[1]


def test_a_sound_model_passes_in_a_fork(digits_model: bytes) -> None:
    probe_in_fork(digits_model, kernels="reference")


def test_a_fork_that_takes_too_long_is_ended(digits_model: bytes) -> None:
    with pytest.raises(EdgeFleetError) as refused:
        probe_in_fork(digits_model, kernels="reference", deadline_s=1e-6)
    assert refused.value.message == "the model did not answer once within 1e-06 s"
