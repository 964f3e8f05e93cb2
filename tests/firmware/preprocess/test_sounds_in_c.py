# SPDX-License-Identifier: Apache-2.0
"""Sounds: waveforms are the reference's, spectra lie within the bound that the generator states.

The bound: at least 99 % of the values are the reference's, none is more than 1 away; silence is exact.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from converter.c.core.preprocessing import generate_preprocessing
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import AudioPreprocessing, Preprocessing, TensorSpec
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


def test_spectra_are_within_the_stated_bound(compiled: Any, case: Any, record_property: Any) -> None:
    batch = clips(1)
    hows = [spectrum(**fields) for fields in SPECTRA]
    cases = [case(Preprocessing(audio=how), fitted(how, batch), 2 * SAMPLES) for how in hows]
    run = compiled(cases)
    for number, one in enumerate(cases):
        away = np.abs(run(number, batch).astype(int) - one.expected(batch))
        equal = float((away == 0).mean())
        record_property(f"equal {SPECTRA[number]}", equal)
        assert away.max() <= 1, f"{SPECTRA[number]}: {away.max()} away"
        assert equal >= 0.99, f"{SPECTRA[number]}: {equal:.4%} equal"


def test_silence_is_exact_wherever_the_scale_puts_it(compiled: Any, case: Any) -> None:
    silence = np.zeros((1, SAMPLES), np.int16)
    cases = []
    for kind, scale in itertools.product(("log-mel", "mfcc"), np.random.default_rng(3).uniform(0.3, 2.0, 12)):
        how = spectrum(kind=kind)
        half = float(preprocess_audio(silence[0], how).min()) / (int(40 / scale) + 0.5)  # silence falls on a half
        spec = TensorSpec(name="x", shape=(1, *audio_shape(how)), dtype="int8", scale=abs(half), zero_point=0)
        cases.append(case(Preprocessing(audio=how), spec, 2 * SAMPLES))
    run = compiled(cases)
    for number, one in enumerate(cases):
        assert np.array_equal(run(number, silence), one.expected(silence)), one.spec.scale


def test_waveforms_are_exact_for_every_sample(compiled: Any, case: Any) -> None:
    every = np.arange(-32768, 32768).astype(np.int16)[np.newaxis]
    settings = [(1.0, 0.0, 1 / 128, 0), (-3.0, 0.5, 0.01, 7), (1e-3, 0.0, 1 / 128, 5), (500.0, 0.0, 0.5, -128),
                (1.0, 0.1, 1 / 127, -1), (0.5, 0.0, 1 / 256, 0)]  # fmt: skip
    cases = [
        case(
            Preprocessing(audio=AudioPreprocessing(
                kind="waveform", sample_rate_hz=RATE_HZ, clip_samples=65536, scale=scale, offset=offset)),
            TensorSpec(name="x", shape=(1, 65536), dtype="int8", scale=step, zero_point=zero_point),
            2 * 65536,
        )
        for scale, offset, step, zero_point in settings
    ]  # fmt: skip
    run = compiled(cases)
    for number, one in enumerate(cases):
        assert np.array_equal(run(number, every), one.expected(every)), settings[number]


@pytest.mark.parametrize("kind", ["log-mel", "waveform"])
def test_silence_follows_a_clip_that_is_too_short(kind: Any, compiled: Any, case: Any) -> None:
    short = clips(2)[-2:, :3000]
    how = spectrum(kind=kind)
    one = case(Preprocessing(audio=how), fitted(how, clips(2)[-2:]), 2 * short.shape[1])
    assert np.array_equal(compiled([one])(0, short), one.expected(short))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"fft_samples": 600}, "fft_samples is 600, and the C has powers of two from 8 to 4096"),
        ({"fft_samples": 8192}, "fft_samples is 8192, and the C has powers of two from 8 to 4096"),
        ({"log_offset": 1e-12}, "log_offset is 1e-12, and fixed point has 1e-07 to 1000"),
        ({"scale": 1e20}, "its scale 1e+20 and offset 0 are too large for the input's scale 0.1"),
    ],
)
def test_a_spectrum_without_c_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    how = spectrum(kind="log-mel", **fields)
    spec = TensorSpec(name="x", shape=(1, *audio_shape(how)), dtype="int8", scale=0.1, zero_point=0)
    with pytest.raises(UnsupportedModelError) as refused:
        generate_preprocessing(Preprocessing(audio=how), spec, name="m")
    assert refused.value.message == f"the audio preprocessing cannot be written as C: {reason}"
