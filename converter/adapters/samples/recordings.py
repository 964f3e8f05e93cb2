# SPDX-License-Identifier: Apache-2.0
"""Clips as ``.wav`` files: 16-bit, one channel, read with the standard library."""

import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError

Array = npt.NDArray[Any]
WAV_SUFFIX = ".wav"
_HINT = "save the clip as 16-bit PCM in mono, at the rate that the preprocessing names"
_SAMPLE_BYTES = 2


class Clip(NamedTuple):
    """A clip, int16 [samples], and how many samples a second has."""

    samples: Array
    rate_hz: int


def read_clip(path: Path, source: str) -> Clip:
    """Read one clip.

    Raises:
        SampleError: the file is no clip in 16-bit mono, or holds nothing.
    """
    try:
        with wave.open(str(path), "rb") as stream:
            channels, width, rate_hz, count, *_ = stream.getparams()
            data = stream.readframes(count)
    except (OSError, EOFError, wave.Error, ValueError) as error:
        raise SampleError(f"{source}: '{path.name}' is not a readable .wav", hint=_HINT) from error
    if (channels, width) != (1, _SAMPLE_BYTES):
        raise SampleError(
            f"{source}: '{path.name}' has {channels} channels of {8 * width} bits, expected one of 16", hint=_HINT
        )
    if not data:
        raise SampleError(f"{source}: '{path.name}' holds no sound", hint=_HINT)
    return Clip(np.frombuffer(data, dtype="<i2").astype(np.int16), rate_hz)
