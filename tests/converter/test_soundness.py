# SPDX-License-Identifier: Apache-2.0
"""A model that says other shapes than it computes is refused before anything here believes it."""

from pathlib import Path

import pytest
from ai_edge_litert.tools import flatbuffer_utils

from benchmarks.model_mutations import mutant
from converter.adapters.flatbuffers.reading import read_model
from converter.adapters.flatbuffers.soundness import check_shapes
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.runtimes.probe import probe_model

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
MODEL = (DIGITS / "v1_float32.tflite").read_bytes()


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "v5"])
def test_sound_models_pass(name: str) -> None:
    check_shapes((DIGITS / f"{name}_float32.tflite").read_bytes())


def test_the_shared_models_pass(shared_dir: Path) -> None:
    models = sorted((shared_dir / "models").glob("*.tflite"))
    assert models
    for path in models:
        check_shapes(path.read_bytes())


def test_a_model_that_declares_another_shape_than_it_computes() -> None:
    tree = read_model(MODEL)
    graph = tree.subgraphs[0]
    number = int(graph.operators[0].outputs[0])
    graph.tensors[number].shape = [1, 2**30, 8, 8]
    lying = bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
    probe_model(lying, kernels="reference")  # LiteRT never looks
    with pytest.raises(UnsupportedModelError) as refused:
        check_shapes(lying)
    assert refused.value.message == (
        f"the model declares shape [1, 1073741824, 8, 8] for tensor {number}, and computes [1, 8, 8, 8]"
    )


@pytest.mark.parametrize("number", [228, 639])
def test_the_mutants_that_made_the_converter_count_for_ever(number: int) -> None:
    with pytest.raises(UnsupportedModelError, match="the model declares shape"):
        check_shapes(mutant(MODEL, 1, number))


def test_a_tensor_that_litert_cannot_describe() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        check_shapes(mutant(MODEL, 1, 65))
    assert refused.value.message == "the model's tensor 12 cannot be read"
