# SPDX-License-Identifier: Apache-2.0
"""Models of TensorFlow and PyTorch come in through processes of their own, with the names that their authors gave."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import read_facts, read_model
from converter.adapters.imports.model_files import read_source
from converter.adapters.imports.process import with_plain_names
from converter.adapters.imports.torch_module import names_a_function
from edgefleet.contracts.errors import MissingExtraError, UnsupportedModelError
from edgefleet.runtimes.litert import LiteRtInterpreter

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
TENSORFLOW, TORCH = "EDGEFLEET_TENSORFLOW_PYTHON", "EDGEFLEET_TORCH_PYTHON"
FLOAT_MODEL = (DIGITS / "v1_float32.tflite").read_bytes()
#: Two inputs, two outputs, weights of 1 and 2: total = sum(left) + 2 sum(right), hidden = relu(left).
NETS = """
import torch
class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.constant_(self.a.weight, 1.0)
        torch.nn.init.constant_(self.b.weight, 2.0)
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, left, right):
        return {"total": self.drop(self.a(left) + self.b(right)), "hidden": torch.relu(left)}
def two():
    return Two(), (torch.zeros(1, 4), torch.zeros(1, 3))
def number():
    return 5
"""
SAVED = """
import sys, tensorflow as tf
class Two(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="left"), tf.TensorSpec([None, 3], name="right")])
    def serve(self, left, right):
        return {"total": tf.reduce_sum(left, 1, True) + 2.0 * tf.reduce_sum(right, 1, True), "hidden": tf.nn.relu(left)}
    @tf.function(input_signature=[tf.TensorSpec([None, None], name="any")])
    def loose(self, any): return {"y": any * 2.0}
two = Two()
tf.saved_model.save(two, sys.argv[1] + "/two", signatures=two.serve)
tf.saved_model.save(two, sys.argv[1] + "/loose", signatures=two.loose)
tf.saved_model.save(two, sys.argv[1] + "/several", signatures={"a": two.serve, "b": two.loose})
import keras
left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
ones, twos = (keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(w)) for w in (1, 2))
total = keras.layers.Add()([ones(left), twos(right)])
keras.Model([left, right], {"total": total, "hidden": keras.layers.ReLU()(left)}).save(sys.argv[1] + "/two.keras")
"""


def named_python(variable: str, module: str) -> str:
    named = os.environ.get(variable)
    if named is None and importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}: install its extra, or name a Python that has it in {variable}")
    return named or sys.executable


def check_two(data: bytes) -> None:
    """The model is the one of ``NETS`` and ``SAVED``, its tensors by name."""
    interpreter = LiteRtInterpreter(data, kernels="reference")
    given = {"left": np.array([[1, -2, 3, 4]], np.float32), "right": np.array([[1, 1, 2]], np.float32)}
    assert sorted(spec.name for spec in interpreter.inputs) == ["left", "right"]
    found = interpreter.invoke([given[spec.name] for spec in interpreter.inputs])
    outputs = dict(zip((spec.name for spec in interpreter.outputs), found, strict=True))
    assert outputs["total"].tolist() == [[14.0]]
    assert outputs["hidden"].tolist() == [[1.0, 0.0, 3.0, 4.0]]


@pytest.mark.slow
def test_a_pytorch_module_comes_in_by_the_name_of_its_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named_python(TORCH, "litert_torch")
    (tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    check_two(read_source(Path("my_nets:two")).data)
    with pytest.raises(UnsupportedModelError) as refused:
        read_source(Path("my_nets:number"))
    assert refused.value.message == (
        "the PyTorch model 'my_nets:number' cannot be converted: the function returned int, expected (module, inputs)"
    )
    assert "torch" not in sys.modules


@pytest.mark.slow
def test_saved_models_and_keras_files_come_in_with_the_names_of_their_inputs_and_outputs(tmp_path: Path) -> None:
    python = named_python(TENSORFLOW, "tensorflow")
    subprocess.run([python, "-c", SAVED, str(tmp_path)], check=True, capture_output=True, timeout=120)
    check_two(read_source(tmp_path / "two.keras").data)
    source = read_source(tmp_path / "two")
    check_two(source.data)
    again = tmp_path / "moved"
    (tmp_path / "two").rename(again)
    assert read_source(again).sha256 == source.sha256
    (again / "assets" / "labels.txt").write_text("cat")
    assert read_source(again).sha256 != source.sha256
    for name, reason in (
        ("loose", "its input 'any' has the shape (None, None), expected fixed sizes behind the batch"),
        ("several", "it has the signatures ['a', 'b'], expected 'serving_default' or one alone"),
    ):
        with pytest.raises(UnsupportedModelError) as refused:
            read_source(tmp_path / name)
        assert refused.value.message == f"the SavedModel '{name}' cannot be converted: {reason}"


def test_a_folder_that_is_no_saved_model(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UnsupportedModelError) as refused:
        read_source(tmp_path / "pictures")
    assert refused.value.message == "'pictures' is a folder without 'saved_model.pb', so no SavedModel"


def test_pytorch_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("litert_torch") is not None:
        pytest.skip("litert-torch is installed here")
    monkeypatch.delenv(TORCH, raising=False)
    with pytest.raises(MissingExtraError) as refused:
        read_source(Path("nets:two"))
    assert (
        refused.value.message == "reading the PyTorch model 'nets:two' needs the extra 'torch', which is not installed"
    )
    assert TORCH in refused.value.hint


def test_a_python_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TORCH, str(tmp_path / "no-python"))
    with pytest.raises(UnsupportedModelError) as refused:
        read_source(Path("nets:two"))
    assert refused.value.message == "the PyTorch model 'nets:two' cannot be converted: FileNotFoundError"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("a:b", True),
        ("pkg.mod:make_net", True),
        ("C:model.tflite", False),
        ("a:b:c", False),
        ("-m:x", False),
        ("a:", False),
    ],
)
def test_what_names_a_function(text: str, is_one: bool) -> None:
    assert names_a_function(text) is is_one


def signed(names: dict[str, tuple[str, int]]) -> bytes:
    """Return digits v1 with a signature: ``names`` maps input or output to a name and a tensor."""
    model = read_model(FLOAT_MODEL)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    maps = {}
    for kind, (name, tensor) in names.items():
        maps[kind] = schema.TensorMapT()
        maps[kind].name, maps[kind].tensorIndex = name.encode(), tensor
    signature.inputs, signature.outputs = [maps["input"]], [maps["output"]]
    model.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_tensors_get_the_names_of_the_signature() -> None:
    facts = read_facts(FLOAT_MODEL)
    data = with_plain_names(signed({"input": ("pixels", facts.inputs[0]), "output": ("digit", facts.outputs[0])}))
    found = read_facts(data)
    assert [found.tensors[n].name for n in (*found.inputs, *found.outputs)] == ["pixels", "digit"]
    before, after = (LiteRtInterpreter(model, kernels="reference") for model in (FLOAT_MODEL, data))
    sample = [np.ones((1, 8, 8, 1), np.float32)]
    assert np.array_equal(before.invoke(sample)[0], after.invoke(sample)[0])


def test_a_name_that_two_tensors_would_share_is_not_given() -> None:
    facts = read_facts(FLOAT_MODEL)
    twice = signed({"input": ("same", facts.inputs[0]), "output": ("same", facts.outputs[0])})
    assert with_plain_names(twice) == twice
    inner = facts.tensors[facts.operators[0].outputs[0]].name
    taken = signed({"input": (inner, facts.inputs[0]), "output": ("digit", facts.outputs[0])})
    assert with_plain_names(taken) == taken
    assert with_plain_names(FLOAT_MODEL) == FLOAT_MODEL


def test_outputs_without_a_signature_get_the_listed_names() -> None:
    found = read_facts(with_plain_names(FLOAT_MODEL, ["digit"]))
    assert found.tensors[found.outputs[0]].name == "digit"
