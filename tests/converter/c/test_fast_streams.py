# SPDX-License-Identifier: Apache-2.0
"""The streams that fast kernels read, taken apart again in Python, and the limits by which kernels are chosen."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.c.core import kernel_choice
from converter.c.core.dsp_streams import conv2d_halves, depthwise_3x3, fit_halves, fit_packed, fully_connected_halves
from converter.c.core.helium_streams import grouped
from converter.c.core.kernel_shapes import Conv2dShape, DepthwiseShape, FullyConnectedShape
from converter.c.core.requantization import ROUND_TWICE, Sums, scaling, shifted_further

Integers = npt.NDArray[np.int64]
_RANDOM = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def _wrapped(words: Integers) -> Integers:
    return (words + (1 << 31)) % (1 << 32) - (1 << 31)


def _halves_products(words: Integers, inputs: Integers) -> Integers:
    """Return what the dsp kernels add up of channels x words, as they do it, modulo 2**32."""
    x = inputs.reshape(-1, 4)
    low, high = words & 0xFFFF, (words >> 16) & 0xFFFF
    halves = np.stack([low, high], axis=-1)
    signed = (halves + (1 << 15)) % (1 << 16) - (1 << 15)
    bytes_below = ((halves & 255) + 128) % 256 - 128
    odd, mixed = x[:, [1, 3]], 256 * x[:, [0, 2]] + 127 - x[:, [1, 3]]
    assert np.abs(mixed).max() <= 1 << 15
    products: Integers = (signed * odd + bytes_below * mixed).sum(axis=(1, 2))
    return products


@given(_RANDOM, st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_halves_make_256_times_the_sum_of_products(random: np.random.Generator, channels: int, quads: int) -> None:
    weights = random.choice([-127, -1, 0, 1, 127], (channels, 4 * quads)).astype(np.int64)
    inputs = random.choice([-128, -1, 0, 1, 127], 4 * quads).astype(np.int64)
    bias = random.integers(-30_000, 30_000, channels)
    scales = np.stack([random.integers(1 << 30, 1 << 31, channels), np.full(channels, -77), np.full(channels, 11)], 1)
    words = np.frombuffer(conv2d_halves(bias, weights, scales), "<i4").astype(np.int64)
    pairs = words.reshape(-(-channels // 2), -1)
    for channel in range(channels):
        pair, place = pairs[channel // 2], channel % 2
        weight_words = pair[2 : 2 + 2 * quads].reshape(quads, 2)[:, place]
        found = _wrapped(pair[place] + _halves_products(weight_words[None], inputs)[0])
        assert found == 256 * (bias[channel] + weights[channel] @ inputs)
        m, packed = pair[2 + 2 * quads :].reshape(2, 2)[place]
        assert (m & 0xFFFFFFFF, packed >> 8, packed & 255) == (scales[channel, 0], -77, 11 - 8)


@given(_RANDOM, st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_fully_connected_halves_make_the_same(random: np.random.Generator, outputs: int, quads: int) -> None:
    weights = random.integers(-127, 128, (outputs, 8 * quads))
    inputs = random.integers(-128, 128, 8 * quads)
    bias = random.integers(-30_000, 30_000, outputs)
    groups = np.frombuffer(fully_connected_halves(bias, weights, None), "<i4").astype(np.int64)
    groups = groups.reshape(-(-outputs // 4), -1)
    for output in range(outputs):
        group, place = groups[output // 4], output % 4
        found = _wrapped(group[place] + _halves_products(group[4:].reshape(-1, 4)[:, place][None], inputs)[0])
        assert found == 256 * (bias[output] + weights[output] @ inputs)


def test_what_does_not_fit_halves_is_refused() -> None:
    sums = np.array([0])
    assert fit_halves(np.array([[-127, 127]]), sums, sums + (1 << 23) - 1)
    assert not fit_halves(np.array([[-128, 127]]), sums, sums)
    assert not fit_halves(np.array([[0, 0]]), sums, sums + (1 << 23))
    assert fit_packed(np.array([[1, (1 << 23) - 1, 8]]))
    assert not fit_packed(np.array([[1, 1 << 23, 8]]))


def test_a_row_of_three_taps_is_four_bytes() -> None:
    taps = np.arange(1, 10).reshape(1, 3, 3)
    stream = depthwise_3x3(np.array([5]), taps, np.array([[7, -3, 9]]))
    assert np.frombuffer(stream[:12], "<i4").tolist() == [5, 7, (-3 << 8) | 9]
    assert list(stream[12:]) == [1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9]


def test_helium_has_four_channels_side_by_side() -> None:
    weights = np.arange(5 * 17).reshape(5, 17) % 8
    scales = np.arange(20).reshape(5, 4)
    stream = grouped(np.arange(5), weights, scales)
    first = np.frombuffer(stream[:80], "<i4").reshape(5, 4)
    assert first.tolist() == [[0, 1, 2, 3], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 4, 8, 12]]
    chunks = np.frombuffer(stream[80 : 80 + 128], np.int8).reshape(2, 4, 16)
    assert chunks[0].tolist() == weights[:4, :16].tolist()
    assert chunks[1, :, 0].tolist() == weights[:4, 16].tolist()
    assert not chunks[1, :, 1:].any()
    assert len(stream) == 2 * (80 + 128)
    nibbles = np.frombuffer(grouped(np.arange(5), weights - 4, scales, int4=True)[80 : 80 + 32], np.int8).reshape(2, 16)
    assert ((nibbles << 4).astype(np.int8) >> 4).tolist() == (weights[[0, 2], :16] - 4).tolist()
    assert (nibbles >> 4).tolist() == (weights[[1, 3], :16] - 4).tolist()


@given(_RANDOM, st.sampled_from([0, 1]))
@settings(max_examples=25, deadline=None)
def test_a_larger_left_shift_answers_every_sum_as_the_reference_does(random: np.random.Generator, relu: int) -> None:
    channels, reach = 6, 3_000
    sums = Sums(
        least=random.integers(-reach, 0, channels), most=random.integers(1, reach, channels),
        multipliers=random.integers(1 << 30, 1 << 31, channels), shifts=-random.integers(3, 14, channels),
        out_zero=-128 if relu else int(random.integers(-128, 128)), act_min=-128, act_max=127, rounding=ROUND_TWICE,
    )  # fmt: skip
    scaled = scaling(sums)
    shifted = shifted_further(sums, scaled, 8)
    if shifted is None:
        return
    assert shifted.form == scaled.form
    words = np.pad(shifted.words, ((0, 0), (4 - shifted.words.shape[1], 0)))
    for channel, (k, m, c, left) in enumerate(words.tolist()):
        every = np.arange(sums.least[channel], sums.most[channel] + 1)
        moved = every + shifted.bias[channel]
        assert left >= 8
        ours = np.clip((((moved << left) * m >> 32) + c + np.where(moved < 0, k, 0)) >> 15, -128, 127)
        np.testing.assert_array_equal(ours, sums.channel(channel).answers(every[None])[0])


_CONV2D = Conv2dShape(1, 8, 8, 16, 8, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 0, 0, -128, 127, 2)
_PIXELS = replace(_CONV2D, kernel_h=1, kernel_w=1, pad_top=0, pad_left=0)
_DEPTHWISE = DepthwiseShape(1, 25, 5, 64, 25, 5, 1, 3, 3, 1, 1, 1, 1, 1, 1, 0, 0, -128, 127, 2, 64, 320, 64, 320)
_FULL = FullyConnectedShape(1, 64, 10, False, 0, -128, 127, 1)


def test_kernels_are_chosen_by_their_limits() -> None:
    conv2d, depthwise, full = kernel_choice.conv2d, kernel_choice.depthwise, kernel_choice.fully_connected
    assert conv2d(_CONV2D, "relu", "portable") is None
    names = [
        conv2d(_CONV2D, "relu", "dsp", halves=True), conv2d(_CONV2D, "exact", "dsp", halves=True),
        conv2d(_CONV2D, "any", "dsp", int4=True), conv2d(_CONV2D, "any", "helium", int4=True),
        depthwise(_DEPTHWISE, "relu", "dsp", packed=True), depthwise(_DEPTHWISE, "relu", "dsp"),
        depthwise(replace(_DEPTHWISE, in_c=63), "relu", "dsp", packed=True),
        depthwise(replace(_DEPTHWISE, dilation_w=2), "any", "helium"), depthwise(_DEPTHWISE, "any", "helium"),
        depthwise(_DEPTHWISE, "exact", "helium"),
        full(_FULL, "any", "dsp", halves=True), full(_FULL, "any", "helium"), full(_FULL, "exact", "helium"),
    ]  # fmt: skip
    assert [choice and choice.variant for choice in names] == [
        "conv2d/dsp/relu-halves", "conv2d/dsp/exact", "conv2d/dsp/any-int4", "conv2d/helium/any-int4",
        "depthwise/dsp/relu-3x3-s1", "depthwise/dsp/relu", "depthwise/dsp/relu", "depthwise/helium/any",
        "depthwise/helium/any-3x3-s1", "depthwise/helium/exact",
        "fully_connected/dsp/any-halves", "fully_connected/helium/any", "fully_connected/helium/exact",
    ]  # fmt: skip
    assert kernel_choice.average_pool(16, 16, "dsp") == "average_pool/dsp/exact"
    assert kernel_choice.average_pool(16, 17, "dsp") == "average_pool/portable/exact"
    assert kernel_choice.average_pool(16, 17, "helium") == "average_pool/helium/exact"
    assert kernel_choice.mean((1, 9, 4, 1, 1), "dsp") == "mean/dsp/rows"
    assert kernel_choice.mean((1, 9, 4, 2, 1), "dsp") == "mean/portable/exact"


@pytest.mark.parametrize(("out_c", "in_place"), [(16, True), (12, True), (20, False)])
def test_a_pixel_may_be_written_over_once_all_of_it_was_read(out_c: int, in_place: bool) -> None:
    choice = kernel_choice.conv2d(replace(_PIXELS, out_c=out_c), "relu", "dsp")
    assert choice is not None
    assert choice.in_place is in_place
    helium = kernel_choice.conv2d(replace(_PIXELS, out_c=out_c), "relu", "helium")
    assert helium is not None
    assert not helium.in_place


def test_a_tall_picture_is_turned_so_that_rows_are_long_and_all_fit_one_chunk() -> None:
    choice = kernel_choice.depthwise(_DEPTHWISE, "relu", "dsp", packed=True)
    assert choice is not None
    assert choice.turned
    assert choice.in_place
    turned = _DEPTHWISE.turned()
    assert (turned.in_h, turned.in_w, turned.in_x_step, turned.in_y_step) == (5, 25, 320, 64)
    assert turned.turned() == _DEPTHWISE
