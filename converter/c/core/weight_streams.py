# SPDX-License-Identifier: Apache-2.0
"""Weights in the order in which the portable kernels, and some of the others, read them: ``kernels.h`` describes it."""

import numpy as np
import numpy.typing as npt

from converter.c.core.fixed_point import Integers

_INT4_OFFSET = 8


def in_rows(weights: Integers, rows: int) -> Integers:
    """Return channels x k with the whole words of each kernel row first, then what is left of the rows, then zeros."""
    channels = len(weights)
    by_row = weights.reshape(channels, rows, -1)
    whole = by_row.shape[2] & ~3
    ordered = np.concatenate(
        [by_row[:, :, :whole].reshape(channels, -1), by_row[:, :, whole:].reshape(channels, -1)], 1
    )
    return _padded(ordered, 4)


def conv2d_pairs(bias: Integers, weights: Integers, scales: Integers, *, int4: bool) -> bytes:
    """Return the stream "pairs", or "pairs-int4", of weights that are in rows."""
    parts = []
    for a, b in _groups(len(bias), 2):
        pair = weights[[a, b]]
        if int4:
            body = _nibbles(pair)
        else:
            quads = pair.reshape(2, -1, 4)[:, :, [0, 2, 1, 3]]
            body = quads.transpose(1, 2, 0).astype(np.int8).tobytes()
        parts += [_words(bias[[a, b]]), body, _words(scales[[a, b]])]
    return b"".join(parts)


def fully_connected_fours(bias: Integers, weights: Integers, scales: Integers | None, *, int4: bool) -> bytes:
    """Return the stream of fully connected; scales where they are per channel."""
    padded = _padded(weights, 8)
    parts = []
    for four in _groups(len(bias), 4):
        quads = padded[four].reshape(4, -1, 4)
        if int4:
            low, high = (np.frombuffer(_nibbles(padded[four[place : place + 2]]), np.uint8) for place in (0, 2))
            body = np.stack([low.reshape(-1, 4), high.reshape(-1, 4)], axis=1).tobytes()
        else:
            body = quads.transpose(1, 0, 2).astype(np.int8).tobytes()
        parts += [_words(bias[four]), body]
        if scales is not None:
            parts.append(_words(scales[four]))
    return b"".join(parts)


def depthwise(bias: Integers, weights: Integers, scales: Integers) -> bytes:
    """Return the portable stream of channels x taps: bias, scale, then the taps in whole words."""
    taps = _padded(weights, 4).astype(np.int8)
    return b"".join(
        _words(bias[channel]) + _words(scales[channel]) + taps[channel].tobytes() for channel in range(len(bias))
    )


def _padded(weights: Integers, unit: int) -> Integers:
    return np.pad(weights, ((0, 0), (0, -weights.shape[1] % unit)))


def _nibbles(pair: Integers) -> bytes:
    """Return two channels as a byte each weight: the first with an offset below, the second as it is above."""
    packed: npt.NDArray[np.int64] = (pair[0] + _INT4_OFFSET) | ((pair[1] & 15) << 4)
    return packed.astype(np.uint8).tobytes()


def _groups(channels: int, size: int) -> list[list[int]]:
    """Return the numbers of channels in groups; the last one repeats where they do not go up."""
    return [[min(first + place, channels - 1) for place in range(size)] for first in range(0, channels, size)]


def _words(numbers: Integers) -> bytes:
    """Return numbers modulo 2**32."""
    return (np.asarray(numbers) & 0xFFFFFFFF).astype("<u4").tobytes()
