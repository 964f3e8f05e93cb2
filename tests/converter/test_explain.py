# SPDX-License-Identifier: Apache-2.0
"""Which layer lies furthest from float: figures by hand, and the layer that was spoilt on purpose is found."""

import math
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer, recipe

from converter.adapters.flatbuffers.reading import read_model
from converter.adapters.flatbuffers.surgery import prune
from converter.adapters.running.layer_outputs import LayerOutputs
from converter.adapters.samples.sets import ArraySamples
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from converter.core.numerics.layer_error import (
    LARGEST_SQNR_DB,
    ErrorSums,
    layer_pairs,
    layer_precision,
    layer_table,
    short_name,
)
from converter.core.recipe import Recipe
from converter.explain import explain
from converter.quantization import quantize
from edgefleet.contracts.errors import SampleError, UnsupportedModelError
from edgefleet.contracts.evidence import LayerError
from edgefleet.contracts.manifest import Precision, Preprocessing

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FLOAT_MODEL = (DIGITS / "v1_float32.tflite").read_bytes()


@pytest.fixture(scope="module")
def frames() -> list[list[np.ndarray]]:
    with np.load(DIGITS / "digits.npz") as stored:
        return [[frame[np.newaxis].astype(np.float32)] for frame in stored["calibration_x"][:12]]


@pytest.fixture(scope="module")
def int8_model(frames: list[list[np.ndarray]]) -> bytes:
    """The model as the quantizer alone makes it."""
    model = LayerOutputs(FLOAT_MODEL)
    ranges: dict[str, dict[str, np.ndarray]] = {}
    computed = [*model.facts.inputs, *(number for o in model.facts.operators for number in o.outputs)]
    for frame in frames:
        model.invoke(frame)
        for number, values in zip(computed, model.read(computed), strict=True):
            found = ranges.setdefault(model.facts.tensors[number].name, {"min": values, "max": values})
            axes = tuple(range(values.ndim))
            found["min"] = np.minimum(found["min"], values).min(axis=axes, keepdims=True)
            found["max"] = np.maximum(found["max"], values).max(axis=axes, keepdims=True)
    worker = quantizer.Quantizer(FLOAT_MODEL, recipe.static_wi8_ai8())
    return bytes(worker.quantize(ranges).quantized_model)


def test_figures_by_hand() -> None:
    sums = ErrorSums()
    sums.add(np.array([[3.0, 0.0]]), np.array([[3.0, 1.0]]))
    sums.add(np.array([[0.0, 4.0]]), np.array([[0.0, 4.0]]))
    assert sums.sqnr_db() == pytest.approx(10 * math.log10(25 / 1))
    assert sums.cosine() == pytest.approx(25 / math.sqrt(25 * 26))


@pytest.mark.parametrize(
    ("wanted", "got", "sqnr_db", "cosine"),
    [
        ([1.0, 2.0], [1.0, 2.0], LARGEST_SQNR_DB, 1.0),
        ([0.0, 0.0], [0.0, 0.0], LARGEST_SQNR_DB, 1.0),
        ([0.0, 0.0], [0.0, 1.0], -LARGEST_SQNR_DB, 0.0),
        ([1.0, 0.0], [np.nan, 0.0], -LARGEST_SQNR_DB, 0.0),
        ([1.0, 1.0], [-1.0, -1.0], 10 * math.log10(2 / 8), -1.0),
    ],
)
def test_figures_at_the_edges(wanted: list[float], got: list[float], sqnr_db: float, cosine: float) -> None:
    sums = ErrorSums()
    sums.add(np.array(wanted), np.array(got))
    assert sums.sqnr_db() == pytest.approx(sqnr_db)
    assert sums.cosine() == pytest.approx(cosine)


def test_every_computing_layer_is_listed_worst_first(int8_model: bytes, frames: list[list[np.ndarray]]) -> None:
    found = explain(FLOAT_MODEL, int8_model, frames)
    assert sorted(layer.operator for layer in found) == [
        "CONV_2D", "CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "SOFTMAX",
    ]  # fmt: skip
    assert [layer.sqnr_db for layer in found] == sorted(layer.sqnr_db for layer in found)
    assert {layer.precision for layer in found} == {"int8"}
    assert all(layer.sqnr_db > 15.0 and layer.cosine > 0.98 for layer in found)


def test_a_model_is_equal_to_itself(frames: list[list[np.ndarray]]) -> None:
    found = explain(FLOAT_MODEL, FLOAT_MODEL, frames[:2])
    assert {(layer.sqnr_db, layer.cosine, layer.precision) for layer in found} == {(LARGEST_SQNR_DB, 1.0, "float32")}


def test_the_layer_that_was_spoilt_is_the_first_that_differs(frames: list[list[np.ndarray]]) -> None:
    model = read_model(FLOAT_MODEL)
    graph = model.subgraphs[0]
    dense = next(o for o in graph.operators if len(o.inputs) == 3 and len(graph.tensors[o.inputs[1]].shape) == 2)
    buffer = model.buffers[graph.tensors[dense.inputs[1]].buffer]
    buffer.data = np.frombuffer((-np.frombuffer(bytes(buffer.data), np.float32)).tobytes(), np.uint8)
    found = explain(FLOAT_MODEL, bytes(flatbuffer_utils.convert_object_to_bytearray(model)), frames)
    assert found[0].operator in ("FULLY_CONNECTED", "SOFTMAX")
    assert {layer.operator for layer in found if layer.sqnr_db < 20} == {"FULLY_CONNECTED", "SOFTMAX"}
    assert {layer.operator for layer in found if layer.sqnr_db == LARGEST_SQNR_DB} == {"CONV_2D", "MAX_POOL_2D"}


def test_layers_are_paired_by_place_where_names_were_dropped(int8_model: bytes, frames: list[list[np.ndarray]]) -> None:
    model = read_model(int8_model)
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = f"t{number}".encode()
    model.signatureDefs = None
    nameless = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert explain(FLOAT_MODEL, nameless, frames[:3]) == explain(FLOAT_MODEL, int8_model, frames[:3])


def test_layers_are_paired_by_name_where_operators_were_added() -> None:
    x, y = TensorFacts("x", (1, 4), "float32", 0), TensorFacts("y", (1, 4), "float32", 0)
    one = GraphFacts((OperatorFacts("RELU", 1, (0,), (1,)),), (x, y), (0,), (1,), 1, 9, None)
    other = GraphFacts(
        (OperatorFacts("ABS", 1, (0,), (2,)), OperatorFacts("RELU", 1, (2,), (1,))),
        (x, y, TensorFacts("z", (1, 4), "float32", 0)), (0,), (1,), 1, 9, None,
    )  # fmt: skip
    [pair] = layer_pairs(one, other)
    assert (pair.layer, pair.float_tensor, pair.quantized_tensor) == ("y", 1, 1)


def test_models_without_a_common_layer_and_sets_without_samples_are_refused(frames: list[list[np.ndarray]]) -> None:
    with pytest.raises(SampleError) as none:
        explain(FLOAT_MODEL, FLOAT_MODEL, [])
    assert none.value.message == "there are no samples to explain the model with"
    model = read_model(FLOAT_MODEL)
    model.subgraphs[0].operators = model.subgraphs[0].operators[:2]
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b"other_" + tensor.name
    model.subgraphs[0].outputs = model.subgraphs[0].operators[-1].outputs
    model.signatureDefs = None
    with pytest.raises(UnsupportedModelError) as strange:
        explain(FLOAT_MODEL, bytes(flatbuffer_utils.convert_object_to_bytearray(model)), frames)
    assert strange.value.message == "the two models have no layer in common"


@pytest.mark.parametrize(
    ("output", "weights", "precision"),
    [
        ("int8", "int8", "int8"), ("int8", "int4", "int4"), ("int16", "int8", "int16x8"),
        ("float32", "int8", "dynamic-int8"), ("float32", "float32", "float32"), ("float32", "float16", "float16"),
    ],
)  # fmt: skip
def test_the_precision_of_a_layer(output: str, weights: str, precision: str) -> None:
    tensors = (TensorFacts("x", (1,), output, 0), TensorFacts("w", (1,), weights, 4), TensorFacts("y", (1,), output, 0))
    operator = OperatorFacts("CONV_2D", 1, (0, 1), (2,))
    assert layer_precision(operator, GraphFacts((operator,), tensors, (0,), (2,), 1, 9, None)) == precision


def test_the_table_shortens_long_names() -> None:
    name = "model/" + "x" * 60 + ";model/fused"
    assert short_name(name) == "…" + "x" * 39
    found = LayerError(layer="a", operator="CONV_2D", precision="int8", sqnr_db=12.34, cosine=0.5)
    assert layer_table([found]) == ("     SQNR    cosine  layer  operator\n  12.3 dB   0.50000  a      CONV_2D (int8)")


def test_layers_of_a_model_whose_dead_channels_were_removed_are_compared_all_the_same(
    frames: list[list[np.ndarray]],
) -> None:
    model = read_model(FLOAT_MODEL)
    graph = model.subgraphs[0]
    first = next(o for o in graph.operators if len(graph.tensors[o.inputs[1]].shape) == 4)
    for number, value in ((first.inputs[1], 0.0), (first.inputs[2], -1.0)):
        buffer = model.buffers[graph.tensors[number].buffer]
        values = np.frombuffer(bytes(buffer.data), np.float32).reshape(graph.tensors[number].shape).copy()
        values[0] = value
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    dying = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    smaller, said = prune(dying)
    assert said
    found = explain(dying, smaller, frames[:3])
    assert [layer.operator for layer in found].count("CONV_2D") == 2
    assert min(layer.sqnr_db for layer in found) > 100


def test_a_layer_whose_channels_were_evened_out_does_not_look_wrong(frames: list[list[np.ndarray]]) -> None:
    model = read_model(FLOAT_MODEL)
    graph = model.subgraphs[0]
    first, second = (o for o in graph.operators if len(o.inputs) == 3 and len(graph.tensors[o.inputs[1]].shape) == 4)

    def scale(number: int, factors: np.ndarray) -> None:
        buffer = model.buffers[graph.tensors[number].buffer]
        values = np.frombuffer(bytes(buffer.data), np.float32).reshape(graph.tensors[number].shape)
        buffer.data = np.frombuffer((values * factors).astype(np.float32).tobytes(), np.uint8)

    # The same function in numbers that are hard to quantize: each channel of the first layer in a size of its own.
    factors = np.geomspace(0.01, 1.0, graph.tensors[first.inputs[1]].shape[0])
    scale(first.inputs[1], factors[:, np.newaxis, np.newaxis, np.newaxis])
    scale(first.inputs[2], factors)
    scale(second.inputs[1], 1.0 / factors)
    extreme = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    samples = ArraySamples("frames", [np.concatenate([frame[0] for frame in frames])], None)
    made = quantize(extreme, Recipe(precision="int8", conditioning=("equalized",)), samples, Preprocessing())
    against_source, found = explain(extreme, made.named, frames), explain(made.reference, made.named, frames)
    assert (against_source[0].operator, against_source[0].sqnr_db < 12.0) == ("CONV_2D", True)
    assert min(layer.sqnr_db for layer in found) > 30.0
    assert min(layer.cosine for layer in found) > 0.999


@pytest.mark.parametrize("precision", ["float16", "dynamic-int8", "int8", "int16x8", "int4"])
def test_the_reference_answers_as_the_source_and_has_every_layer(
    precision: Precision, frames: list[list[np.ndarray]]
) -> None:
    samples = ArraySamples("frames", [np.concatenate([frame[0] for frame in frames])], None)
    made = quantize(FLOAT_MODEL, Recipe(precision=precision), samples, Preprocessing())
    assert len(explain(made.reference, made.named, frames[:2])) == 5
    before, after = LayerOutputs(FLOAT_MODEL), LayerOutputs(made.reference)
    for frame in frames[:3]:
        before.invoke(frame)
        after.invoke(frame)
        [wanted], [got] = before.read(before.facts.outputs), after.read(after.facts.outputs)
        assert np.abs(got - wanted).max() < 1e-5
