# SPDX-License-Identifier: Apache-2.0
"""Rounding: outputs change less than by rounding to the nearest step, and the integers are the same everywhere."""

import itertools
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.core.numerics.rounding import best_scales, output_errors, round_layer

Array = np.ndarray[Any, Any]


def layer(seed: int, outputs: int, inputs: int) -> tuple[Array, Array]:
    """Return weights, and the hessian of integer inputs that go together, as those of real layers do."""
    chance = np.random.default_rng(seed)
    mixing = chance.normal(size=(inputs, inputs // 3 + 1))
    x = np.rint(chance.normal(size=(500, mixing.shape[1])) @ mixing.T * 10.0)
    return chance.normal(0.0, 0.1, (outputs, inputs)), x.T @ x


def exact_error(integers: Array, scale: float, weights: Array, hessian: Array) -> Fraction:
    errors = [Fraction(int(q)) * Fraction(scale) - Fraction(w) for q, w in zip(integers, weights, strict=True)]
    whole = [[Fraction(h) for h in row] for row in hessian]
    return sum(
        (errors[i] * whole[i][j] * errors[j] for i in range(len(errors)) for j in range(len(errors))), Fraction(0)
    )


def loss(integers: Array, scales: Array, weights: Array, hessian: Array) -> float:
    errors = integers * scales[:, np.newaxis] - weights
    return float(np.einsum("ij,jk,ik->", errors, hessian, errors))


def test_outputs_of_a_four_bit_layer_change_by_less_than_a_third_as_much() -> None:
    weights, hessian = layer(1, 16, 90)
    scales = best_scales(weights, hessian, 7)
    nearest = np.clip(np.rint(weights / scales[:, np.newaxis]), -7, 7)
    rounded = round_layer(weights, hessian, scales, 7)
    assert loss(rounded, scales, weights, hessian) < loss(nearest, scales, weights, hessian) / 3


def test_better_scales_than_the_largest_weights_own_are_found() -> None:
    weights, hessian = layer(2, 16, 90)
    losses = []
    for scales in (np.abs(weights).max(axis=1) / 7, best_scales(weights, hessian, 7)):
        nearest = np.clip(np.rint(weights / scales[:, np.newaxis]), -7, 7)
        losses.append(loss(nearest, scales, weights, hessian))
    assert losses[1] < losses[0] * 0.8


def test_with_few_weights_the_results_are_nearer_to_the_best_of_all_than_to_the_nearest_steps() -> None:
    reached = np.zeros(3)
    for seed in range(12):
        weights, hessian = layer(seed, 1, 4)
        scale = float(np.abs(weights).max()) / 2
        rounded = round_layer(weights, hessian, np.asarray([scale]), 2)[0]
        every = [np.asarray(q) for q in itertools.product(range(-2, 3), repeat=4)]
        nearest = np.clip(np.rint(weights[0] / scale), -2, 2)
        best = min(float(exact_error(q, scale, weights[0], hessian)) for q in every)
        reached += [best, *(float(exact_error(q, scale, weights[0], hessian)) for q in (rounded, nearest))]
    best, ours, plain = reached
    assert best <= ours < (best + plain) / 2


def test_inputs_that_are_always_zero_take_the_nearest_step() -> None:
    weights = np.asarray([[0.31, -0.74, 1.0]])
    rounded = round_layer(weights, np.zeros((3, 3)), np.asarray([0.1]), 7)
    np.testing.assert_array_equal(rounded, [[3, -7, 7]])


def test_one_scale_can_serve_all_outputs() -> None:
    weights, hessian = layer(3, 6, 12)
    weights[2] *= 3.0
    scale = best_scales(weights, hessian, 7, one_for_all=True)
    assert scale.shape == (1,)
    assert 0.4 * np.abs(weights).max() / 7 <= scale[0] <= np.float32(np.abs(weights).max() / 7)
    rounded = round_layer(weights, hessian, scale, 7)
    assert rounded.shape == weights.shape


def test_scales_are_what_float32_holds_and_zero_weights_have_one() -> None:
    weights, hessian = layer(4, 3, 6)
    weights[1] = 0.0
    scales = best_scales(weights, hessian, 127)
    np.testing.assert_array_equal(scales, scales.astype(np.float32))
    assert (scales > 0.0).all()
    assert not round_layer(weights, hessian, scales, 127)[1].any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    outputs=st.integers(1, 4),
    inputs=st.integers(1, 8),
    levels=st.sampled_from([1, 7, 127]),
    factor=st.sampled_from([1.0, 4.0, 2.0**20]),
)
def test_it_is_never_worse_than_the_nearest_and_no_step_leaves_the_range(
    seed: int, outputs: int, inputs: int, levels: int, factor: float
) -> None:
    weights, hessian = layer(seed, outputs, inputs)
    scales = best_scales(weights, hessian, levels)
    rounded = round_layer(weights, hessian, scales, levels)
    assert np.abs(rounded.astype(int)).max() <= levels
    np.testing.assert_array_equal(round_layer(weights, hessian * factor, scales, levels), rounded)
    nearest = np.clip(np.rint(weights / scales[:, np.newaxis]), -levels, levels)
    damped = hessian + np.eye(inputs) * 0.01 * np.diag(hessian).mean()
    assert loss(rounded, scales, weights, damped) <= loss(nearest, scales, weights, damped) * (1 + 1e-4) + 1e-9


@given(seed=st.integers(0, 10_000), inputs=st.integers(1, 9))
def test_relative_errors_are_those_of_exact_arithmetic(seed: int, inputs: int) -> None:
    errors, hessian = layer(seed, 2, inputs)
    errors = np.clip(errors, -1.0, 1.0)
    exact = [float(exact_error(np.zeros(inputs), 1.0, row, hessian)) for row in errors]
    got = output_errors(errors, hessian)
    np.testing.assert_allclose(
        got * max(exact), np.asarray(exact) * got.max(), rtol=1e-3, atol=1e-3 * max(exact) * got.max()
    )


@pytest.mark.parametrize(
    "settings_of_cpu",
    [
        {"OPENBLAS_CORETYPE": "Prescott"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F"},
        {"OPENBLAS_NUM_THREADS": "2"},
    ],
)
def test_the_integers_do_not_depend_on_the_processor(settings_of_cpu: dict[str, str]) -> None:
    weights, hessian = layer(5, 24, 60)
    here = round_layer(weights, hessian, best_scales(weights, hessian, 7), 7)
    script = (
        "import sys, numpy as np; from converter.core.numerics.rounding import *;"
        "w, h = (np.frombuffer(bytes.fromhex(part)).reshape(shape) "
        "for part, shape in zip(sys.stdin.read().split(), ((24, 60), (60, 60))));"
        "sys.stdout.write(round_layer(w, h, best_scales(w, h, 7), 7).tobytes().hex())"
    )
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=f"{weights.tobytes().hex()} {hessian.tobytes().hex()}",
        env={**os.environ, **settings_of_cpu},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout == here.tobytes().hex()
