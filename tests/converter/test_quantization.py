# SPDX-License-Identifier: Apache-2.0
"""Every precision of a recipe on a real model: as close as it promises, layer by layer, the same bytes each time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter import observation, quantization
from converter.adapters.flatbuffers.layer_weights import read_layers, with_layers
from converter.adapters.flatbuffers.patched_weights import PatchedWeights
from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.running import activations
from converter.adapters.running.activations import layer_hessians
from converter.adapters.running.calibration import Calibrator
from converter.adapters.samples.sets import ArraySamples
from converter.core.numerics.ranges import Range, tensor_ranges
from converter.core.recipe import Recipe
from converter.observation import observe
from converter.quantization import quantize, quantize_observed
from edgefleet.contracts.errors import InputError, SampleError, UnsupportedModelError
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tensors import dequantize, to_model_inputs

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
MODEL = (DIGITS / "v1_float32.tflite").read_bytes()
FACTS = read_facts(MODEL)
FIRST, SECOND, DENSE = (
    FACTS.tensors[o.outputs[0]].name for o in FACTS.operators if o.name in ("CONV_2D", "FULLY_CONNECTED")
)
AS_IT_IS = Preprocessing()


@pytest.fixture(scope="module")
def frames() -> dict[str, np.ndarray]:
    with np.load(DIGITS / "digits.npz") as stored:
        return {
            "calibration": stored["calibration_x"][:60].astype(np.float32),
            "live": stored["live_x"][:100].astype(np.float32),
        }


@pytest.fixture(scope="module")
def calibration(frames: dict[str, np.ndarray]) -> ArraySamples:
    return ArraySamples("c.npz", [frames["calibration"]], None)


def answers(model: bytes, frames: np.ndarray) -> np.ndarray:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    outputs = [interpreter.invoke(to_model_inputs([frame], interpreter.inputs))[0] for frame in frames]
    return np.stack([dequantize(output, interpreter.outputs[0]).reshape(-1) for output in outputs])


def weight_types(model: bytes) -> list[str]:
    """Return the types of the weights of each linear layer, in the order of execution."""
    facts = read_facts(model)
    return [facts.tensors[o.inputs[1]].dtype for o in facts.operators if o.name in ("CONV_2D", "FULLY_CONNECTED")]


@pytest.mark.parametrize(
    ("precision", "found", "farthest"),
    [
        ("float32", "float32", 0.0),
        ("float16", "float16", 0.002),
        ("dynamic-int8", "dynamic-int8", 0.01),
        ("int8", "int8", 0.01),
        ("int16x8", "int16x8", 0.005),
        ("int4", "int4", 0.03),
    ],
)
def test_each_precision_answers_as_the_float_model(
    frames: dict[str, np.ndarray], calibration: ArraySamples, precision: Any, found: str, farthest: float
) -> None:
    made = quantize(MODEL, Recipe(precision=precision), calibration, AS_IT_IS)
    assert read_facts(made.data).precision() == found
    assert np.abs(answers(made.data, frames["live"]) - answers(MODEL, frames["live"])).mean() <= farthest


def test_float_precisions_need_no_samples_and_integers_do() -> None:
    for precision in ("float32", "float16", "dynamic-int8"):
        quantize(MODEL, Recipe(precision=precision), None, AS_IT_IS)
    for precision in ("int8", "int16x8", "int4"):
        with pytest.raises(InputError) as refused:
            quantize(MODEL, Recipe(precision=precision), None, AS_IT_IS)
        assert refused.value.message == f"converting a float model to {precision} needs calibration samples"


def test_float32_without_dead_channels_keeps_every_byte() -> None:
    assert quantize(MODEL, Recipe(precision="float32"), None, AS_IT_IS).data == MODEL


def test_layers_get_the_precision_that_they_are_given(calibration: ArraySamples) -> None:
    recipe = Recipe(precision="mixed", layers={FIRST: "int4", DENSE: "float32"})
    made = quantize(MODEL, recipe, calibration, AS_IT_IS)
    assert weight_types(made.data) == ["int4", "int8", "float32"]
    facts = read_facts(made.data)
    assert (facts.precision(), facts.operators_in_float()) == ("mixed", ("FULLY_CONNECTED",))
    assert facts.tensors[facts.inputs[0]].dtype == "int8"


def test_a_layer_in_sixteen_bits_among_eight(frames: dict[str, np.ndarray], calibration: ArraySamples) -> None:
    made = quantize(MODEL, Recipe(precision="mixed", layers={DENSE: "int16x8"}), calibration, AS_IT_IS)
    facts = read_facts(made.data)
    [dense] = [o for o in facts.operators if o.name == "FULLY_CONNECTED"]
    assert [facts.tensors[n].dtype for n in (dense.inputs[0], dense.inputs[1], dense.outputs[0])] == [
        "int16", "int8", "int16",
    ]  # fmt: skip
    assert np.abs(answers(made.data, frames["live"]) - answers(MODEL, frames["live"])).mean() < 0.01


def test_int4_has_a_scale_for_each_channel_of_a_convolution_and_one_for_a_dense_layer(
    calibration: ArraySamples,
) -> None:
    facts = read_facts(quantize(MODEL, Recipe(precision="int4"), calibration, AS_IT_IS).data)
    scales = {
        o.name: len(facts.tensors[o.inputs[1]].scales)
        for o in facts.operators
        if o.name in ("CONV_2D", "FULLY_CONNECTED")
    }
    assert scales["FULLY_CONNECTED"] == 1 < scales["CONV_2D"]


def test_a_dense_layer_of_dynamic_int8_has_one_scale_as_old_runtimes_know_no_other() -> None:
    facts = read_facts(quantize(MODEL, Recipe(precision="dynamic-int8"), None, AS_IT_IS).data)
    [dense] = [o for o in facts.operators if o.name == "FULLY_CONNECTED"]
    assert len(facts.tensors[dense.inputs[1]].scales) == 1


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_the_order_of_the_samples_changes_no_byte(
    frames: dict[str, np.ndarray], calibration: ArraySamples, ranges: Any, rounding: Any
) -> None:
    recipe = Recipe(precision="int4", ranges=ranges, percentile=99.0, rounding=rounding, conditioning=("equalized",))
    shuffled = ArraySamples("c.npz", [np.random.default_rng(5).permutation(frames["calibration"])], None)
    one, other = (quantize(MODEL, recipe, samples, AS_IT_IS) for samples in (calibration, shuffled))
    assert one.data == other.data
    assert np.abs(answers(one.data, frames["live"]) - answers(MODEL, frames["live"])).mean() < 0.05


def test_range_methods_narrow_what_lies_inside_and_leave_the_interface(calibration: ArraySamples) -> None:
    observed = observe(MODEL, calibration, AS_IT_IS)
    found = {}
    for ranges in ("minmax", "percentile"):
        recipe = Recipe(precision="int8", ranges=ranges, percentile=98.0, conditioning=("none",))  # type: ignore[arg-type]
        found[ranges] = read_facts(quantize_observed(observed, recipe).named)
    scales = [{t.name: t.scales[0] for t in facts.tensors if t.quantized} for facts in found.values()]
    names = [FACTS.tensors[number].name for number in (*FACTS.inputs, *FACTS.outputs)]
    assert all(scales[0][name] == scales[1][name] for name in names)
    assert scales[1][FIRST] < 0.9 * scales[0][FIRST]


def test_rounding_by_outputs_loses_less_than_to_the_nearest(
    frames: dict[str, np.ndarray], calibration: ArraySamples
) -> None:
    observed = observe(MODEL, calibration, AS_IT_IS)
    wanted = answers(MODEL, frames["live"])
    lost = []
    for rounding in ("nearest", "gptq"):
        recipe = Recipe(precision="int4", rounding=rounding, conditioning=("bias-corrected",))  # type: ignore[arg-type]
        made = quantize_observed(observed, recipe)
        lost.append(float(np.abs(answers(made.data, frames["live"]) - wanted).mean()))
    assert lost[1] < 0.8 * lost[0]


def test_a_dead_channel_is_removed_unless_the_recipe_says_no(
    frames: dict[str, np.ndarray], calibration: ArraySamples
) -> None:
    first, *rest = read_layers(MODEL)
    assert first.bias is not None
    weights, bias = first.weights.copy(), first.bias.copy()
    weights[2:4], bias[2:4] = 0.0, -1.0  # behind a ReLU they are 0 wherever they are looked at
    dead = with_layers(MODEL, [replace(first, weights=weights, bias=bias), *rest])
    pruned = quantize(dead, Recipe(precision="int8"), calibration, AS_IT_IS)
    kept = quantize(dead, Recipe(precision="int8", prune=False), calibration, AS_IT_IS)
    assert (len(pruned.rewrites), kept.rewrites) == (1, ())
    assert len(pruned.data) < len(kept.data)
    wanted = answers(dead, frames["live"])
    for made in (pruned, kept):
        assert np.abs(answers(made.data, frames["live"]) - wanted).mean() < 0.01


def test_the_named_model_is_the_same_with_the_float_models_names(
    frames: dict[str, np.ndarray], calibration: ArraySamples
) -> None:
    made = quantize(MODEL, Recipe(precision="int8"), calibration, AS_IT_IS)
    assert len(made.named) > len(made.data)
    assert {FIRST, SECOND, DENSE} <= {tensor.name for tensor in read_facts(made.named).tensors}
    assert (answers(made.named, frames["live"][:5]) == answers(made.data, frames["live"][:5])).all()


def test_a_layer_that_the_model_lacks_is_refused(calibration: ArraySamples) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^the recipe names the layer 'head', and no operator"):
        quantize(MODEL, Recipe(precision="mixed", layers={"head": "float32"}), calibration, AS_IT_IS)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 8, 8, 1), np.float32), "c.npz holds no samples"),
        (np.zeros((3, 8, 8, 1), np.float32),
         "the calibration samples of input 'frame' are all 0, so that no scale can be made from them"),
        (np.full((1, 8, 8, 1), 7.0, np.float32),
         "c.npz holds nothing but the value 7, so that no range can be learned for the tensors "
         "'Identity', 'frame', 'sequential_1_1/conv2d_2_1/Relu;sequential_1_1/conv2d_2_1/BiasAdd;"
         "sequential_1_1/conv2d_2_1/convolution;sequential_1_1/conv2d_2_1/Squeeze1' and 4 more"),
        (np.array([1.0, np.nan], np.float32).repeat(64).reshape(2, 8, 8, 1), "c.npz: sample 1 has NaN or infinity"),
        (np.ones((2, 9, 8, 1), np.float32),
         "c.npz: a sample of input 'frame' has shape [9, 8, 1], the model expects [1, 8, 8, 1]"),
    ],
)  # fmt: skip
def test_samples_that_nothing_can_be_learned_from(x: np.ndarray, message: str) -> None:
    with pytest.raises(SampleError) as refused:
        quantize(MODEL, Recipe(precision="int8"), ArraySamples("c.npz", [x], None), AS_IT_IS)
    assert refused.value.message == message


def test_a_tensor_that_the_samples_never_change_is_a_warning(calibration: ArraySamples) -> None:
    *rest, dense = read_layers(MODEL)
    assert dense.bias is not None
    still = replace(dense, weights=dense.weights * 0.0, bias=np.full_like(dense.bias, 3.0))
    made = quantize(with_layers(MODEL, [*rest, still]), Recipe(precision="int8", prune=False), calibration, AS_IT_IS)
    assert made.warnings == (
        f"the calibration samples never change the tensors 'Identity', '{DENSE}': give samples that differ more",
    )


def test_weights_are_patched_where_they_stand() -> None:
    layers = [replace(layer, weights=layer.weights * 2.0, bias=layer.bias + 1.0) for layer in read_layers(MODEL)]
    patched = PatchedWeights(MODEL).with_layers(layers)
    assert len(patched) == len(MODEL)
    for layer, again in zip(layers, read_layers(patched), strict=True):
        np.testing.assert_allclose(again.weights, layer.weights, rtol=1e-7)
        np.testing.assert_allclose(again.bias, layer.bias, rtol=1e-6)


def test_hessians_are_whole_numbers_that_tell_a_layers_outputs(frames: dict[str, np.ndarray]) -> None:
    """``w H w`` is the sum of squared sums of products: compared with the interpreter's own convolution."""
    first, second, _ = layers = read_layers(MODEL)
    samples = [[frame[np.newaxis]] for frame in frames["calibration"][:5]]
    calibrator = Calibrator(MODEL, FACTS)
    for sample in samples:
        calibrator.observe(sample)
    ranges = tensor_ranges(calibrator.statistics())
    hessians = layer_hessians(MODEL, layers, ranges, samples)
    assert set(hessians) == {layer.operator for layer in layers}
    assert all((h == np.rint(h)).all() and (h == h.T).all() for h in hessians.values())
    linear = without_bias_and_relu(first, second)
    scale = (max(ranges[first.input].high, 0.0) - min(ranges[first.input].low, 0.0)) / 255
    watched = Calibrator(linear, read_facts(linear))
    number = next(n for n, t in enumerate(FACTS.tensors) if t.name == first.output)
    expected = np.zeros(len(first.weights))
    for sample in samples:
        watched.observe([np.rint(sample[0].astype(np.float64) / scale).astype(np.float32)])
        values = watched._model.read_real(number)
        expected += (values.reshape(-1, values.shape[-1]) ** 2).sum(axis=0)
    rows = np.abs(first.by_output())
    told = ((rows @ hessians[first.operator]) * rows).sum(axis=1)
    np.testing.assert_allclose(told, expected, rtol=1e-4)


def without_bias_and_relu(first: Any, second: Any) -> bytes:
    """Give the first layer positive weights and no bias, so that a ReLU behind it changes nothing."""
    positive = replace(first, weights=np.abs(first.weights), bias=np.zeros_like(first.bias))
    return with_layers(MODEL, [positive, second])


class Options:
    """A convolution's way over its input, as the flatbuffer tells it."""

    def __init__(self, stride: int, dilation: int, same: bool) -> None:
        self.stride, self.dilation, self.same = stride, dilation, same

    def StrideH(self) -> int:  # noqa: N802  # the generated reader's names
        return self.stride

    def DilationHFactor(self) -> int:  # noqa: N802
        return self.dilation

    def Padding(self) -> int:  # noqa: N802
        return 0 if self.same else 1

    StrideW, DilationWFactor = StrideH, DilationHFactor


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.booleans(), st.integers(1, 3), st.integers(5, 9))
def test_patches_are_what_a_kernel_sees(stride: int, dilation: int, same: bool, size: int, side: int) -> None:
    values = np.random.default_rng(0).normal(size=(1, side, side, 2))
    span = (size - 1) * dilation + 1
    count = -(-side // stride) if same else (side - span) // stride + 1
    before = max((count - 1) * stride + span - side, 0) // 2 if same else 0
    expected = np.zeros((count, count, size, size, 2))
    for y, x, i, j in np.ndindex(count, count, size, size):
        row, column = y * stride + i * dilation - before, x * stride + j * dilation - before
        if 0 <= row < side and 0 <= column < side:
            expected[y, x, i, j] = values[0, row, column]
    found = activations._patches(values, (size, size), Options(stride, dilation, same))
    assert (found == expected.reshape(count * count, -1)).all()


def test_a_layer_without_a_range_has_no_hessian() -> None:
    first, *_ = read_layers(MODEL)
    assert layer_hessians(MODEL, [first], {"another": Range(0.0, 1.0)}, []) == {}


def test_the_number_of_workers_changes_no_byte(calibration: ArraySamples, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(precision="int8", ranges="mse")
    made = set()
    for workers in (1, 3):
        for module in (observation, quantization):
            monkeypatch.setattr(module, "worker_count", lambda workers=workers: workers)
        made.add(quantize(MODEL, recipe, calibration, AS_IT_IS).data)
    assert len(made) == 1
