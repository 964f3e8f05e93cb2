# SPDX-License-Identifier: Apache-2.0
"""Conditioning keeps the function of a float model and makes it easier to quantize; proved on a real one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converter.adapters.flatbuffers.layer_weights import read_layers, with_layers
from converter.adapters.flatbuffers.reading import read_facts, with_signature_list
from converter.adapters.quantizer import quantize_model
from converter.adapters.running.calibration import Calibrator
from converter.core.numerics.conditioning import (
    Layer,
    correct_biases,
    equalize,
    revive_silent_channels,
    rounding_error,
)
from converter.core.numerics.ranges import (
    Statistics,
    channel_statistics,
    tensor_ranges,
)
from converter.core.recipe import Recipe
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tensors import dequantize, to_model_inputs

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
MODEL = (DIGITS / "v1_float32.tflite").read_bytes()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    with np.load(DIGITS / "digits.npz") as stored:
        return stored["calibration_x"][:40].astype(np.float32)


@pytest.fixture(scope="module")
def observed(pictures: np.ndarray) -> Statistics:
    return observe(MODEL, pictures)


def observe(model: bytes, pictures: np.ndarray) -> Statistics:
    calibrator = Calibrator(model, read_facts(model))
    for picture in pictures:
        calibrator.observe([picture[np.newaxis]])
    return calibrator.statistics()


def to_int8(model: bytes, statistics: Statistics) -> bytes:
    listed = with_signature_list(model)
    return quantize_model(listed, read_facts(listed), Recipe(precision="int8"), tensor_ranges(statistics))


def answers(model: bytes, pictures: np.ndarray) -> np.ndarray:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    outputs = [interpreter.invoke(to_model_inputs([p], interpreter.inputs))[0] for p in pictures]
    return np.stack([dequantize(output, interpreter.outputs[0]) for output in outputs])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_equalizing_keeps_the_function(exponent: float, pictures: np.ndarray, observed: Statistics) -> None:
    layers, statistics = equalize(read_layers(MODEL), observed, exponent=exponent)
    changed = with_layers(MODEL, layers)
    assert np.abs(answers(changed, pictures) - answers(MODEL, pictures)).max() < 1e-5
    seen = observe(changed, pictures)
    for name in statistics:
        assert seen[name].range == pytest.approx(statistics[name].range, rel=1e-4, abs=1e-4)


def test_equalizing_wholly_gives_all_channels_the_same_reach(observed: Statistics) -> None:
    layers, statistics = equalize(read_layers(MODEL), observed, exponent=1.0)
    [first] = [layer for layer in layers if layer.follower is not None]
    reach = statistics[first.output].high
    assert np.ptp(observed[first.output].high) > 1.0
    assert np.allclose(reach[reach > 0.0], reach.max())


def test_a_channel_is_not_rescaled_where_its_tensor_has_two_readers_or_leaves_the_model() -> None:
    followers = [(layer.kind, layer.follower) for layer in read_layers(MODEL)]
    assert followers == [("CONV_2D", 1), ("CONV_2D", None), ("FULLY_CONNECTED", None)]


def test_bias_correction_takes_back_the_mean_that_rounding_adds() -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(6, 3, 3, 4))
    layer = Layer(
        operator=0, kind="CONV_2D", input="in", output="out", weights=weights, bias=np.zeros(6), follower=None
    )
    inputs = channel_statistics(rng.uniform(0.0, 8.0, size=(200, 4)))
    [corrected] = correct_biases([layer], {"in": inputs})
    per_input = rounding_error(layer).reshape(6, -1, 4).sum(axis=1)
    assert corrected.bias is not None
    assert np.abs(per_input @ inputs.mean).max() > 0.01
    assert np.allclose(per_input @ inputs.mean + corrected.bias, 0.0)


def test_a_channel_without_weights_keeps_its_bias(pictures: np.ndarray, observed: Statistics) -> None:
    *convolutions, dense = read_layers(MODEL)
    assert dense.bias is not None
    weights, bias = dense.weights.copy(), dense.bias.copy()
    weights[4], bias[4] = 0.0, 9.0
    silent = with_layers(MODEL, [*convolutions, replace(dense, weights=weights, bias=bias)])
    statistics = observe(silent, pictures)
    with pytest.raises(UnsupportedModelError) as caught:
        to_int8(silent, statistics)
    assert caught.value.message == (
        "the model cannot be quantized to int8: a channel's bias is too large for the scale of its weights"
    )
    revived = with_layers(silent, revive_silent_channels(read_layers(silent), statistics))
    right = to_int8(revived, statistics)
    wanted = answers(silent, pictures)[:, 0, 4]
    assert np.abs(answers(right, pictures)[:, 0, 4] - wanted).max() < 0.1
