# SPDX-License-Identifier: Apache-2.0
"""Weight streams that only the Helium kernels read (``firmware/kernels/helium/scale.h`` says how they lie).

Four channels go together: their biases, then each word of their scales, four side by side, then of each 16 of k the 16
bytes of each channel; int4: 16 bytes with the first channel in the low nibbles and the second in the high ones.
"""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_GROUP, _CHUNK = 4, 16


def grouped(bias: Integers, weights: Integers, scales: Integers, *, int4: bool = False) -> bytes:
    """Return the stream "helium" of conv2d or fully connected.

    Args:
        bias: of each channel, with the input's zero point folded in.
        weights: channels x k, k in the picture's own order (kernel row, kernel column, input channel).
        scales: channels x words: m c l, or k m c l, or multiplier and shift.
    """
    channels, k = weights.shape
    padded = np.zeros((channels, -(-k // _CHUNK) * _CHUNK), np.int8)
    padded[:, :k] = weights
    # k comes last here: a vector takes it after the sums are there
    words = np.concatenate([bias[:, None], np.roll(scales, -1, axis=1) if scales.shape[1] == 4 else scales], axis=1)
    count = -(-channels // _GROUP) * _GROUP
    groups = np.minimum(np.arange(count), channels - 1).reshape(-1, _GROUP)
    return b"".join(
        (words[group].T & 0xFFFFFFFF).astype("<u4").tobytes() + _chunks(padded[group], int4) for group in groups
    )


def _chunks(weights: npt.NDArray[np.int8], int4: bool) -> bytes:
    """Return the weights of four channels, 16 of each a time."""
    if int4:
        nibbles = weights.view(np.uint8)
        weights = ((nibbles[0::2] & 15) | (nibbles[1::2] << 4)).view(np.int8)
    chunks = weights.reshape(len(weights), -1, _CHUNK).transpose(1, 0, 2)
    return np.ascontiguousarray(chunks).tobytes()
