# SPDX-License-Identifier: Apache-2.0
"""Weight streams that only the dsp kernels read; the portable ones are in ``kernels.h``.

Both streams of convolutions have scales of one word less than kernels.h says: ``c << 8 | l`` is one.

"halves" holds two weights of one channel as ``256 * odd + even`` in 16 bits. The dsp kernels multiply the half with one
input and its low byte with ``256 * even input + 127 - odd input``: together 256 times both products and 127 times the
even weight, which the stream's bias takes away. Sums are 256 times as large as those of "pairs"; a scale's left shift
``l`` is less by 8.
"""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

#: Bits by which sums of "halves" are larger.
HALVES_BITS = 8
_SURPLUS, _LEFT_BITS = 127, 8


def fit_halves(weights: Integers, least: Integers, most: Integers) -> bool:
    """Return whether weights, and the bounds of sums of those channels that are not constant, fit the form."""
    bound = max(abs(int(least.min())), abs(int(most.max())))
    return int(weights.min()) >= -127 and bound << HALVES_BITS < 1 << 31


def conv2d_halves(bias: Integers, weights: Integers, scales: Integers) -> bytes:
    """Return the stream "halves" of conv2d.

    For channels a and b: two biases; for each quad of k the halves (a1 a0), (a3 a2), then b's; the two scales.

    Args:
        bias: of each channel, with the input's zero point folded in.
        weights: channels x k, k in the order of "pairs" and a multiple of 4.
        scales: channels x words ([k] m c l), ``l`` as for "pairs"; at least 8.
    """
    words, packed = _halves(weights), _packed(scales, HALVES_BITS)
    biases = _moved_bias(bias, weights)
    return b"".join(
        _int32(np.concatenate([biases[pair], words[pair].transpose(1, 0).ravel(), packed[pair].ravel()]))
        for pair in _in_groups(len(bias), 2)
    )


def fully_connected_halves(bias: Integers, weights: Integers, scales: Integers | None) -> bytes:
    """Return the stream "halves" of fully connected: four biases, four words of each quad, four scales if per channel.

    Scales are as for "pairs": these kernels bring sums back before they scale them.
    """
    words = _halves(weights)
    biases = _moved_bias(bias, weights)
    return b"".join(
        _int32(
            np.concatenate(
                [biases[four], words[four].transpose(1, 0).ravel(), *([] if scales is None else [scales[four].ravel()])]
            )
        )
        for four in _in_groups(len(bias), 4)
    )


def depthwise_3x3(bias: Integers, weights: Integers, scales: Integers) -> bytes:
    """Return the stream of depthwise 3x3: for each channel its bias, its scale, then the bytes w0 w1 w1 w2 of each row.

    Args:
        weights: channels x 3 x 3.
        scales: channels x words ([k] m c l).
    """
    rows = weights[:, :, [0, 1, 1, 2]].astype(np.int8).reshape(len(bias), -1)
    words = np.ascontiguousarray(rows).view("<i4").astype(np.int64)
    return _int32(np.concatenate([bias[:, None], _packed(scales, 0), words], axis=1).ravel())


def fit_packed(scales: Integers) -> bool:
    """Return whether ``c`` leaves a byte of its word free, as it does unless a large offset is on the sums."""
    return bool((np.abs(scales[:, -2]) < 1 << (31 - _LEFT_BITS)).all())


def _packed(scales: Integers, less: int) -> Integers:
    """Return scales with ``c << 8 | l - less`` as their last word."""
    last = (scales[:, -2:-1] << _LEFT_BITS) | (scales[:, -1:] - less)
    return np.concatenate([scales[:, :-2], last], axis=1)


def _halves(weights: Integers) -> Integers:
    """Return channels x k / 4 pairs of words: 256 * odd + even, the first half below; here as channels x words."""
    quads = weights.reshape(len(weights), -1, 4)
    halves = (quads[..., [1, 3]] * 256 + quads[..., [0, 2]]).astype("<i2")
    return np.ascontiguousarray(halves).view("<i4")[..., 0].astype(np.int64)


def _moved_bias(bias: Integers, weights: Integers) -> Integers:
    even = weights.reshape(len(weights), -1, 2)[..., 0].sum(1)
    moved: Integers = (bias << HALVES_BITS) - _SURPLUS * even
    return moved


def _in_groups(channels: int, size: int) -> list[Integers]:
    """Return the numbers of channels in groups; the last one repeats where they do not go up."""
    count = -(-channels // size) * size
    padded: Integers = np.minimum(np.arange(count), channels - 1)
    return list(padded.reshape(-1, size))


def _int32(words: Integers) -> bytes:
    """Return words modulo 2**32."""
    return (words & 0xFFFFFFFF).astype("<u4").tobytes()
