# SPDX-License-Identifier: Apache-2.0
"""A model that says other shapes than it computes is refused before anything here believes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from benchmarks.model_mutations import mutant
from converter.adapters.flatbuffers.layer_weights import read_layers
from converter.adapters.flatbuffers.reading import read_model
from converter.adapters.flatbuffers.soundness import check_sound
from converter.adapters.flatbuffers.surgery import prune
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.runtimes.probe import probe_model

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
MODEL = (DIGITS / "v1_float32.tflite").read_bytes()


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "v5"])
def test_sound_models_pass(name: str) -> None:
    check_sound((DIGITS / f"{name}_float32.tflite").read_bytes())


def test_the_shared_models_pass(shared_dir: Path) -> None:
    models = sorted((shared_dir / "models").glob("*.tflite"))
    assert models
    for path in models:
        check_sound(path.read_bytes())


def test_a_model_that_declares_another_shape_than_it_computes() -> None:
    tree = read_model(MODEL)
    graph = tree.subgraphs[0]
    number = int(graph.operators[0].outputs[0])
    graph.tensors[number].shape = [1, 2**30, 8, 8]
    lying = bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
    probe_model(lying, kernels="reference")  # LiteRT never looks
    with pytest.raises(UnsupportedModelError) as refused:
        check_sound(lying)
    assert refused.value.message == (
        f"the model declares shape [1, 1073741824, 8, 8] for tensor {number}, and computes [1, 8, 8, 8]"
    )


@pytest.mark.parametrize("number", [228, 639])
def test_the_mutants_that_made_the_converter_count_for_ever(number: int) -> None:
    with pytest.raises(UnsupportedModelError, match="the model declares shape"):
        check_sound(mutant(MODEL, 1, number))


def test_a_tensor_that_litert_cannot_describe() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        check_sound(mutant(MODEL, 1, 65))
    assert refused.value.message == "the model's tensor 12 cannot be read"


def changed(change: Callable[[Any], None]) -> bytes:
    tree = read_model(MODEL)
    change(tree)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


def test_weights_with_bytes_to_spare_are_nobody_s_layer() -> None:
    def longer(tree: Any) -> None:
        buffer = tree.buffers[tree.subgraphs[0].tensors[int(tree.subgraphs[0].operators[0].inputs[1])].buffer]
        buffer.data = np.concatenate([buffer.data, np.zeros(8, np.uint8)])

    assert [layer.operator for layer in read_layers(MODEL)] == [0, 1, 4]
    assert [layer.operator for layer in read_layers(changed(longer))] == [1, 4]


def test_options_that_a_file_lacks_have_their_defaults() -> None:
    """LiteRT does not prepare such a model; whoever reads it before must not stumble."""

    def bare(tree: Any) -> None:
        for operator in tree.subgraphs[0].operators:
            operator.builtinOptions, operator.builtinOptionsType = None, schema.BuiltinOptions.NONE

    assert prune(changed(bare))[1] == ()
    assert [layer.operator for layer in read_layers(changed(bare))] == [0, 1, 4]


def test_constants_behind_the_flatbuffer_are_read_as_arrays() -> None:
    """Bytes would be packed one at a time, by the second for each megabyte."""
    whole = read_model(MODEL)
    constants = b"".join(bytes(b.data) for b in whole.buffers if b.data is not None)
    for buffer in whole.buffers:
        if buffer.data is not None:
            buffer.offset, buffer.size, buffer.data = 2, len(buffer.data), None
    place = len(flatbuffer_utils.convert_object_to_bytearray(whole))
    for buffer in whole.buffers:
        if buffer.size:
            buffer.offset, place = place, place + buffer.size
    model = bytes(flatbuffer_utils.convert_object_to_bytearray(whole)) + constants
    read = read_model(model)
    assert {type(buffer.data) for buffer in read.buffers if buffer.data is not None} == {np.ndarray}
    assert read_layers(model)[0].weights.tolist() == read_layers(MODEL)[0].weights.tolist()
