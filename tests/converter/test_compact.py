# SPDX-License-Identifier: Apache-2.0
"""The compact writer: fewer bytes, the same model."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.compaction import compact
from converter.adapters.flatbuffers.reading import read_facts, read_model
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "v1_float32.tflite"
SHARED = (
    "ad_float32",
    "ad_int8",
    "ic_resnet8_float32",
    "ic_resnet8_int8",
    "kws_int8",
    "vww_float32",
    "vww_int8",
)


def answers(model: bytes, kernels: Kernels) -> list[Any]:
    interpreter = LiteRtInterpreter(model, kernels=kernels)
    chance = np.random.default_rng(7)
    drawn = [
        chance.random(spec.shape).astype(np.float32)
        if spec.dtype == "float32"
        else chance.integers(-128, 128, spec.shape).astype(spec.dtype)
        for spec in interpreter.inputs
    ]
    return interpreter.invoke(drawn)


def data_offsets(model: bytes) -> list[int]:
    root = schema.Model.GetRootAsModel(model, 0)
    buffers = [root.Buffers(number) for number in range(root.BuffersLength())]
    return [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]


def test_digits_get_smaller_and_answer_the_same_to_the_bit() -> None:
    model = DIGITS.read_bytes()
    small = compact(model)
    assert len(small) < len(model)
    for kernels in ("production", "reference"):
        np.testing.assert_array_equal(answers(small, kernels), answers(model, kernels))


@pytest.mark.parametrize("name", SHARED)
def test_shared_models_get_smaller_and_answer_the_same_to_the_bit(shared_dir: Path, name: str) -> None:
    model = (shared_dir / "models" / f"{name}.tflite").read_bytes()
    small = compact(model)
    assert len(small) < len(model)
    np.testing.assert_array_equal(answers(small, "production"), answers(model, "production"))
    if name != "vww_float32":  # its reference run takes long, and says no more than the others'
        np.testing.assert_array_equal(answers(small, "reference"), answers(model, "reference"))


@pytest.mark.parametrize("name", ["kws_int8", "vww_int8", "ic_resnet8_int8"])
def test_tflm_runs_the_compact_model_to_the_same_bit(shared_dir: Path, name: str) -> None:
    if importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("no tflite-micro here (pip install 'edgefleet[mcu]')")
    from tflite_micro import runtime

    model = (shared_dir / "models" / f"{name}.tflite").read_bytes()
    outputs = []
    for data in (model, compact(model)):
        interpreter = runtime.Interpreter.from_bytes(data, arena_size=4 << 20)
        shape = interpreter.get_input_details(0)["shape"]
        interpreter.set_input(np.random.default_rng(7).integers(-128, 128, shape).astype(np.int8), 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0))
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_an_int8_model_with_many_equal_vectors_loses_a_sixth(shared_dir: Path) -> None:
    model = (shared_dir / "models" / "vww_int8.tflite").read_bytes()
    assert len(compact(model)) < len(model) * 5 / 6


@pytest.mark.parametrize("name", ["kws_int8", "vww_int8"])
def test_a_compact_model_comes_back_byte_for_byte(shared_dir: Path, name: str) -> None:
    once = compact((shared_dir / "models" / f"{name}.tflite").read_bytes())
    assert compact(once) == once


def test_constants_start_at_multiples_of_16_bytes() -> None:
    offsets = data_offsets(compact(DIGITS.read_bytes()))
    assert offsets
    assert {offset % 16 for offset in offsets} == {0}


def test_the_interface_keeps_its_names_and_inner_tensors_get_numbers() -> None:
    model = DIGITS.read_bytes()
    before, after = read_facts(model), read_facts(compact(model))
    ends = {*before.inputs, *before.outputs}
    for number, (old, new) in enumerate(zip(before.tensors, after.tensors, strict=True)):
        assert new.name == (old.name if number in ends else str(number))
        assert (new.shape, new.dtype, new.constant_bytes) == (old.shape, old.dtype, old.constant_bytes)
    assert after.operators == before.operators
    assert len({tensor.name for tensor in after.tensors}) == len(after.tensors)


def test_an_input_that_is_named_like_a_number_keeps_its_name_alone() -> None:
    tree = read_model(DIGITS.read_bytes())
    graph = tree.subgraphs[0]
    inner = next(n for n in range(len(graph.tensors)) if n not in {*graph.inputs, *graph.outputs})
    graph.tensors[graph.inputs[0]].name = b"%d" % inner
    after = read_facts(compact(bytes(flatbuffer_utils.convert_object_to_bytearray(tree))))
    names = [tensor.name for tensor in after.tensors]
    assert after.tensors[after.inputs[0]].name == str(inner)
    assert len(set(names)) == len(names)


def test_signatures_stay() -> None:
    tree = read_model(DIGITS.read_bytes())
    graph = tree.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.subgraphIndex = 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = b"picture", graph.inputs[0]
    signature.outputs[0].name, signature.outputs[0].tensorIndex = b"digit", graph.outputs[0]
    tree.signatureDefs = [signature]
    after = read_model(compact(bytes(flatbuffer_utils.convert_object_to_bytearray(tree))))
    kept = after.signatureDefs[0]
    assert (kept.signatureKey, kept.inputs[0].name, kept.outputs[0].name) == (b"serving_default", b"picture", b"digit")
    assert kept.inputs[0].tensorIndex == graph.inputs[0]


def test_metadata_stays_as_it_is_and_unused_buffers_go() -> None:
    plan = np.asarray([1, 1, 3, 0, -1, 64], dtype="<i4").tobytes()
    tree = read_model(DIGITS.read_bytes())
    unused, used = schema.BufferT(), schema.BufferT()
    unused.data = np.full(5000, 7, dtype=np.uint8)
    used.data = np.frombuffer(plan, dtype=np.uint8)
    tree.buffers += [unused, used]
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"OfflineMemoryAllocation", len(tree.buffers) - 1
    tree.metadata = [*(tree.metadata or ()), entry]
    small = compact(bytes(flatbuffer_utils.convert_object_to_bytearray(tree)))
    after = read_model(small)
    found = {item.name: bytes(after.buffers[item.buffer].data) for item in after.metadata}
    assert found[b"OfflineMemoryAllocation"] == plan
    assert b"\7" * 5000 not in small


def test_vectors_of_equal_bytes_and_different_types_are_not_mixed_up() -> None:
    tree = read_model(DIGITS.read_bytes())
    tensor = tree.subgraphs[0].tensors[0]
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = np.zeros(2, dtype=np.float32)
    tensor.quantization.zeroPoint = np.zeros(1, dtype=np.int64)
    after = read_model(compact(bytes(flatbuffer_utils.convert_object_to_bytearray(tree))))
    kept = after.subgraphs[0].tensors[0].quantization
    assert (kept.scale.tolist(), kept.zeroPoint.tolist()) == ([0.0, 0.0], [0])


def test_a_damaged_file_is_refused_in_one_sentence() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        compact(b"TFL3" * 10)
    assert refused.value.message.startswith("the model ")
