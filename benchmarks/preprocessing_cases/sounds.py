# SPDX-License-Identifier: Apache-2.0
"""Spectra of many shapes, and clips that try them: speech-like, silence, full scale, clipped, noise."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import AudioPreprocessing, TensorSpec
from edgefleet.runtimes.audio import audio_shape, preprocess_audio

Clips = npt.NDArray[np.int16]
RATE_HZ, SAMPLES = 16000, 8000
SPECTRA: list[dict[str, Any]] = [
    {"kind": "log-mel"},
    {"kind": "mfcc"},
    {"kind": "mfcc", "frame_samples": 400, "stride_samples": 160, "mel_bins": 23, "coefficients": 13, "high_hz": 8e3},
    {"kind": "log-mel", "frame_samples": 512, "stride_samples": 256},  # a steady level leaves exact zeros
    {"kind": "log-mel", "frame_samples": 1024, "stride_samples": 512, "fft_samples": 1024, "mel_bins": 128,
     "low_hz": 0.0, "high_hz": 8000.0},
    {"kind": "log-mel", "frame_samples": 255, "stride_samples": 100, "fft_samples": 256, "log_offset": 1e-7},
    {"kind": "log-mel", "frame_samples": 2048, "stride_samples": 1024, "fft_samples": 4096, "high_hz": 8000.0},
    {"kind": "log-mel", "frame_samples": 7, "stride_samples": 5, "fft_samples": 8, "mel_bins": 3, "high_hz": 8e3},
    {"kind": "mfcc", "scale": -0.25, "offset": 3.0, "log_offset": 1e-3},
]  # fmt: skip


def spectrum(**fields: Any) -> AudioPreprocessing:
    return AudioPreprocessing(sample_rate_hz=RATE_HZ, clip_samples=SAMPLES, **fields)


def speech_like(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Harmonics of a wandering pitch under syllables, over the noise of a room."""
    time_s = np.arange(SAMPLES) / RATE_HZ
    pitch_hz, depth = rng.uniform(80, 250), rng.uniform(1, 5)
    syllables = np.interp(time_s, np.linspace(0, time_s[-1], 8), rng.uniform(0, 1, 8) ** 2)
    voice = sum(
        rng.uniform(0.1, 1) / k * np.sin(k * (2 * np.pi * pitch_hz * time_s + depth * np.sin(9 * time_s)))
        for k in range(1, 25)
    )
    return np.asarray(rng.uniform(300, 15000) * syllables * voice + rng.normal(0, rng.uniform(0.3, 30), SAMPLES))


def hard_clips() -> list[npt.NDArray[np.float64]]:
    """Levels, tones and edges at full scale, where zeros and the largest sums are."""
    time_s, ones = np.arange(SAMPLES) / RATE_HZ, np.ones(SAMPLES)
    tones = [32767 * np.sin(2 * np.pi * hertz * time_s) for hertz in (100, 440, 3000, 4000, 8000)]
    square = np.where(np.arange(SAMPLES) % 64 < 32, 32767.0, -32768.0)
    click = np.where(np.arange(SAMPLES) == SAMPLES // 3, 32767.0, 0.0)
    return [ones, 32767 * ones, -32768 * ones, *tones, 90000 * np.sin(2 * np.pi * 441.7 * time_s), square, click]


def clips(seed: int) -> Clips:
    rng = np.random.default_rng(seed)
    noise = [rng.uniform(-level, level, SAMPLES) for level in (1, 3, 30, 1000, 32767)]
    made = [*hard_clips(), *noise, *(speech_like(rng) for _ in range(8))]
    return np.clip(np.rint(np.array(made)), -32768, 32767).astype(np.int16)


def fitted(how: AudioPreprocessing, batch: Clips) -> TensorSpec:
    """An int8 input over the range that the clips have, as calibration would choose it."""
    real = np.array([preprocess_audio(clip, how) for clip in batch], dtype=np.float64)
    scale = float(np.float32((real.max() - real.min()) / 255.0))
    zero_point = int(np.clip(np.rint(-128 - real.min() / scale), -128, 127))
    return TensorSpec(name="x", shape=(1, *audio_shape(how)), dtype="int8", scale=scale, zero_point=zero_point)
