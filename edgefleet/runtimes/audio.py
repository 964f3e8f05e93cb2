# SPDX-License-Identifier: Apache-2.0
"""From a mono clip to what a model of sounds takes: the waveform, log-mel bands, or their cosine transform (MFCC).

Frames, window and mel filters are those of TensorFlow's ``tf.signal`` (``hann_window(periodic=True)``, ``stft``,
``linear_to_mel_weight_matrix``: triangles on the HTK mel scale, 1127 ln(1 + f / 700)). Everything is computed in
float64 and rounded once, with additions in a fixed order and a logarithm of our own, so that two processors agree.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import AudioPreprocessing
from edgefleet.runtimes.elementary import logarithm

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_INT16 = 32768.0
_STEADY = 2.0**40
#: No model for an edge device hears more at once; a bundle that says so would exhaust the memory.
_MOST_NUMBERS = 1 << 22


def preprocess_audio(clip: Array, how: AudioPreprocessing) -> Floats:
    """Turn a mono clip, int16 or float32 in [-1, 1), shape (samples,), into (frames, features) or (clip_samples,).

    Raises:
        SampleError: the array is no such clip, or the preprocessing contradicts itself.
    """
    check_audio(how)
    if clip.dtype not in (np.dtype(np.int16), np.dtype(np.float32)) or clip.ndim != 1 or not clip.size:
        raise SampleError(
            f"a clip is an array of {clip.dtype} with shape {list(clip.shape)}, "
            "expected int16 or float32 [samples], one channel",
            hint="pass the clip as it was recorded, in mono; the bundle's preprocessing scales it",
        )
    return _scaled(_features(_fitted(clip, how.clip_samples), how), how)


def audio_shape(how: AudioPreprocessing) -> tuple[int, ...]:
    """Return the shape of what :func:`preprocess_audio` makes."""
    if how.kind == "waveform":
        return (how.clip_samples,)
    frames = max(how.clip_samples - how.frame_samples, -how.stride_samples) // how.stride_samples + 1
    return (frames, how.coefficients if how.kind == "mfcc" else how.mel_bins)


def check_audio(how: AudioPreprocessing) -> None:
    """Refuse parameters that contradict each other.

    Raises:
        SampleError: the message names the field.
    """
    for wrong, sentence in _contradictions(how):
        if wrong:
            raise SampleError(f"the audio preprocessing {sentence}", hint="correct the preprocessing file")


def _contradictions(how: AudioPreprocessing) -> list[tuple[bool, str]]:
    finite = all(map(math.isfinite, (how.scale, how.offset, how.low_hz, how.high_hz, how.log_offset)))
    whole = [
        (not finite or how.scale == 0.0, "has a scale of 0, or a number that is not finite"),
        (how.clip_samples > _MOST_NUMBERS, f"makes clips of {how.clip_samples} samples, over {_MOST_NUMBERS}"),
    ]
    if how.kind == "waveform":
        return whole
    nyquist = how.sample_rate_hz / 2.0
    return [
        *whole,
        (how.frame_samples > how.clip_samples, "has frames (frame_samples) longer than the clip (clip_samples)"),
        (how.frame_samples > how.fft_samples, "has frames (frame_samples) longer than fft_samples"),
        (not 0.0 <= how.low_hz < how.high_hz <= nyquist, f"needs 0 ≤ low_hz < high_hz ≤ {nyquist:g}, half the rate"),
        (how.log_offset <= 0.0, "needs a log_offset over 0, as the logarithm of silence has no end"),
        (how.kind == "mfcc" and how.coefficients > how.mel_bins, "has more coefficients than mel_bins"),
        (math.prod((how.clip_samples // how.stride_samples + 1, how.fft_samples)) > _MOST_NUMBERS,
         "makes more numbers than a board's memory holds"),
        (how.fft_samples * how.mel_bins > _MOST_NUMBERS, "makes more numbers than a board's memory holds"),
    ]  # fmt: skip


def _fitted(clip: Array, samples: int) -> Doubles:
    """Return the clip as real values, cut or filled with silence at its end."""
    real = clip[:samples].astype(np.float64)
    if clip.dtype == np.int16:
        real /= _INT16
    return np.pad(real, (0, samples - len(real)))


def _features(clip: Doubles, how: AudioPreprocessing) -> Doubles:
    if how.kind == "waveform":
        return clip
    framed = np.lib.stride_tricks.sliding_window_view(clip, how.frame_samples)[:: how.stride_samples]
    spectrum = np.fft.rfft(framed * hann(how.frame_samples), how.fft_samples)
    magnitudes = np.sqrt(spectrum.real * spectrum.real + spectrum.imag * spectrum.imag)  # np.abs differs by processor
    bands = _filtered(
        magnitudes, mel_filters(how.fft_samples, how.mel_bins, how.sample_rate_hz, how.low_hz, how.high_hz)
    )
    logarithms = logarithm(bands + how.log_offset)
    if how.kind == "log-mel":
        return logarithms
    return _filtered(logarithms, cosines(how.mel_bins, how.coefficients))


def _scaled(features: Doubles, how: AudioPreprocessing) -> Floats:
    with np.errstate(over="ignore"):  # too large for a float32 becomes infinite, which its readers refuse
        return (features * how.scale + how.offset).astype(np.float32)


@lru_cache(maxsize=8)
def hann(samples: int) -> Doubles:
    """Return the periodic Hann window."""
    return _steady(np.array([0.5 - 0.5 * math.cos(2.0 * math.pi * n / samples) for n in range(samples)]))


def _steady(table: Doubles) -> Doubles:
    """Round a table of sines or logarithms to 2^-40: C libraries, and processors under them, differ in the last bit."""
    return np.rint(table * _STEADY) / _STEADY


@lru_cache(maxsize=8)
def mel_filters(fft_samples: int, bins: int, rate_hz: int, low_hz: float, high_hz: float) -> Doubles:
    """Return the weight of each of the spectrum's (fft_samples // 2 + 1) lines in each band; 0 Hz has none."""
    lines = np.array([mel(line * rate_hz / fft_samples) for line in range(fft_samples // 2 + 1)])
    edges = mel_edges(bins, low_hz, high_hz)
    rising = (lines[:, np.newaxis] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - lines[:, np.newaxis]) / (edges[2:] - edges[1:-1])
    weights: Doubles = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return _steady(weights)


def mel_edges(bins: int, low_hz: float, high_hz: float) -> Doubles:
    """Return where the triangles begin, peak and end on the mel scale: band b from edges[b] over b + 1 to b + 2."""
    low, high = mel(low_hz), mel(high_hz)
    edges: Doubles = low + (high - low) * np.arange(bins + 2) / (bins + 1)
    return edges


def mel(hertz: float) -> float:
    """Return a frequency on the HTK mel scale."""
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@lru_cache(maxsize=8)
def cosines(bins: int, coefficients: int) -> Doubles:
    """Return the orthonormal DCT-II as a matrix, shape (bins, coefficients)."""
    table = [
        [math.cos(math.pi * k * (2 * n + 1) / (2 * bins)) * math.sqrt((1.0 if k == 0 else 2.0) / bins)
         for k in range(coefficients)]
        for n in range(bins)
    ]  # fmt: skip
    return _steady(np.array(table))


def _filtered(rows: Doubles, weights: Doubles) -> Doubles:
    """Multiply (rows, n) by (n, columns), without BLAS: its order of addition depends on the processor."""
    filtered = np.zeros((len(rows), weights.shape[1]))
    for n in np.flatnonzero(weights.any(axis=1)):
        filtered += rows[:, n, np.newaxis] * weights[n]
    return filtered
