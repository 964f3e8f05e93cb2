# SPDX-License-Identifier: Apache-2.0
"""One shift instead of two roundings: compared with the reference at every single sum, not only where it is proved."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.c.core.fixed_point import quantize_multiplier, quantized
from converter.c.core.program import Value
from converter.c.core.requantization import ROUND_ONCE, ROUND_TWICE, Scaling, Sums, scaling

Array = npt.NDArray[Any]


def _sums(
    factor: float, least: int, most: int, *, zero: int = -128, cut: tuple[int, int] = (-128, 127), rounding: int = 2
) -> Sums:
    multiplier, shift = quantize_multiplier(factor)
    one = [np.array([number], np.int64) for number in (least, most, multiplier, shift)]
    return Sums(*one, zero, *cut, rounding)


def _one_shift(scaled: Scaling, sums: Array) -> Array:
    """The kernels' arithmetic, with 32 bits of the shifted sum checked."""
    k, m, c, left = (int(word) for word in ([0, *scaled.words[0]] if scaled.form == "relu" else scaled.words[0]))
    shifted = (sums + scaled.bias[0]) << left
    assert m == 0 or np.abs(shifted).max() < 1 << 31
    high = (shifted * m >> 32) + c + np.where(shifted < 0, k, 0)
    assert np.abs(high).max() < 1 << 31
    return np.clip(high >> 15, -128, 127)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    factor=st.floats(2.0**-20, 0.9),
    zero=st.sampled_from([-128, -128, 127, 0, -7, 90]),
    relu=st.booleans(),
    rounding=st.sampled_from([ROUND_ONCE, ROUND_TWICE]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_proved_form_is_right_at_every_sum(factor: float, zero: int, relu: bool, rounding: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    least, most = (int(bound) for bound in np.sort(random.integers(-60_000, 60_000, 2)))
    sums = _sums(factor, least, most, zero=zero, cut=(zero if relu else -128, 127), rounding=rounding)
    scaled = scaling(sums)
    if scaled.form != "exact":
        every = np.arange(least, most + 1)
        np.testing.assert_array_equal(_one_shift(scaled, every), sums.answers(every[None])[0])


@pytest.mark.parametrize(
    ("factor", "zero", "cut", "rounding", "form"),
    [
        (0.003, -128, (-128, 127), ROUND_TWICE, "relu"),  # what is negative is cut
        (0.003, 10, (10, 127), ROUND_TWICE, "exact"),  # a ReLU above the least int8: one shift does not cut there
        (0.003, 10, (-128, 127), ROUND_ONCE, "relu"),  # halves always go up
        (0.003, 10, (-128, 127), ROUND_TWICE, "any"),
        (0.003, -128, (-128, -40), ROUND_TWICE, "exact"),  # a ReLU6 that cuts
        (0.00001, -128, (-128, -40), ROUND_TWICE, "relu"),  # one that no sum reaches
    ],
)
def test_the_form_follows_from_what_is_cut(
    factor: float, zero: int, cut: tuple[int, int], rounding: int, form: str
) -> None:
    assert scaling(_sums(factor, -70_001, 90_000, zero=zero, cut=cut, rounding=rounding)).form == form


def test_a_channel_that_never_changes_is_its_answer() -> None:
    scaled = scaling(_sums(2.0**-26, -70_000, 90_000, zero=-3))
    assert (scaled.form, scaled.words.tolist(), scaled.bias.tolist()) == ("relu", [[0, -3 << 15, 8]], [0])


def test_a_very_small_factor_gets_an_offset_on_its_sum() -> None:
    sums = _sums(1.3 * 2.0**-17, -40_000, 900_000)
    scaled = scaling(sums)
    every = np.arange(-40_000, 900_001)
    assert scaled.form == "relu"
    np.testing.assert_array_equal(_one_shift(scaled, every), sums.answers(every[None])[0])


def test_sums_that_fill_32_bits_take_the_exact_form() -> None:
    scaled = scaling(_sums(0.002, -(1 << 30), 1 << 30))
    assert (scaled.form, scaled.words.tolist()) == ("exact", [list(quantize_multiplier(0.002))])


def test_one_channel_decides_for_its_layer() -> None:
    easy, hard = _sums(0.003, -1000, 1000, zero=5), _sums(0.003, -(1 << 30), 1000, zero=5)
    names = ("least", "most", "multipliers", "shifts")
    channels = (np.concatenate([getattr(easy, name), getattr(hard, name)]) for name in names)
    assert scaling(easy).form == "any"
    assert scaling(Sums(*channels, 5, -128, 127, ROUND_TWICE)).form == "exact"


def test_a_channel_whose_ends_agree_only_because_they_wrap_is_not_constant() -> None:
    wrapping = _sums(2.0**10, 0, 1 << 22)
    ends_and_between = np.array([[0, 1, (1 << 21) - 1, 1 << 22]])
    assert wrapping.answers(ends_and_between).tolist() == [[-128, 127, -128, -128]]
    assert scaling(wrapping).form == "exact"


@pytest.mark.parametrize(
    ("multiplier", "shift", "least", "most"),
    [
        (1372856576, -1, -4_142, 123_868),  # on one side of 0: a channel of TFLM's person detection
        (1829385402, -15, -4_369_292, 3_383_983),  # a constant between two integers: one of an autoencoder
    ],
)
def test_an_offset_on_the_sum_lets_one_shift_do(multiplier: int, shift: int, least: int, most: int) -> None:
    one = [np.array([number], np.int64) for number in (least, most, multiplier, shift)]
    sums = Sums(*one, -128, -128, 127, ROUND_TWICE)
    scaled = scaling(sums)
    every = np.arange(least, most + 1)
    assert (scaled.form, scaled.bias[0] != 0) == ("relu", True)
    np.testing.assert_array_equal(_one_shift(scaled, every), sums.answers(every[None])[0])


def test_a_real_number_in_a_scale_near_nothing_is_very_much_without_a_warning() -> None:
    tiny = Value(0, "tiny", (1,), "int8", scales=(1e-38,), zero_point=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (quantized(0.0, tiny), quantized(6.0, tiny), quantized(-6.0, tiny)) == (3, 3 + 2**62, 3 - 2**62)
