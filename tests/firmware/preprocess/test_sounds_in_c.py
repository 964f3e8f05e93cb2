# SPDX-License-Identifier: Apache-2.0
"""Sounds: waveforms are the reference's, spectra lie within the bound that the generator states.

The bound: at least 99 % of the values are the reference's, none is more than 1 away; silence is exact.
"""

import itertools
from typing import Any

import numpy as np
import pytest

from benchmarks.preprocessing_cases.case import Case
from benchmarks.preprocessing_cases.sounds import RATE_HZ, SAMPLES, SPECTRA, clips, fitted, spectrum
from converter.c.core.preprocessing import generate_preprocessing
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import AudioPreprocessing, Preprocessing, TensorSpec
from edgefleet.runtimes.audio import audio_shape, preprocess_audio


def test_spectra_are_within_the_stated_bound(compiled: Any, record_property: Any) -> None:
    batch = clips(1)
    hows = [spectrum(**fields) for fields in SPECTRA]
    cases = [Case(Preprocessing(audio=how), fitted(how, batch), 2 * SAMPLES) for how in hows]
    run = compiled(cases)
    for number, one in enumerate(cases):
        away = np.abs(run(number, batch).astype(int) - one.expected(batch))
        equal = float((away == 0).mean())
        record_property(f"equal {SPECTRA[number]}", equal)
        assert away.max() <= 1, f"{SPECTRA[number]}: {away.max()} away"
        assert equal >= 0.99, f"{SPECTRA[number]}: {equal:.4%} equal"


def test_silence_is_exact_wherever_the_scale_puts_it(compiled: Any) -> None:
    silence = np.zeros((1, SAMPLES), np.int16)
    cases = []
    for kind, scale in itertools.product(("log-mel", "mfcc"), np.random.default_rng(3).uniform(0.3, 2.0, 12)):
        how = spectrum(kind=kind)
        half = float(preprocess_audio(silence[0], how).min()) / (int(40 / scale) + 0.5)  # silence falls on a half
        spec = TensorSpec(name="x", shape=(1, *audio_shape(how)), dtype="int8", scale=abs(half), zero_point=0)
        cases.append(Case(Preprocessing(audio=how), spec, 2 * SAMPLES))
    run = compiled(cases)
    for number, one in enumerate(cases):
        assert np.array_equal(run(number, silence), one.expected(silence)), one.spec.scale


@pytest.mark.parametrize("kind", ["log-mel", "mfcc"])
def test_live_sound_gives_the_rows_that_a_clip_gives(kind: Any, compiled: Any) -> None:
    batch, how = clips(3)[-4:], Preprocessing(audio=spectrum(kind=kind))
    assert how.audio is not None
    clip = Case(how, fitted(how.audio, batch), 2 * SAMPLES)
    live = Case(how, fitted(how.audio, batch), 2 * SAMPLES, live=True)
    run = compiled([clip, live])
    assert np.array_equal(run(1, batch), run(0, batch))


def test_waveforms_are_exact_for_every_sample(compiled: Any) -> None:
    every = np.arange(-32768, 32768).astype(np.int16)[np.newaxis]
    settings = [(1.0, 0.0, 1 / 128, 0), (-3.0, 0.5, 0.01, 7), (1e-3, 0.0, 1 / 128, 5), (500.0, 0.0, 0.5, -128),
                (1.0, 0.1, 1 / 127, -1), (0.5, 0.0, 1 / 256, 0)]  # fmt: skip
    cases = [
        Case(
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
def test_silence_follows_a_clip_that_is_too_short(kind: Any, compiled: Any) -> None:
    short = clips(2)[-2:, :3000]
    how = spectrum(kind=kind)
    one = Case(Preprocessing(audio=how), fitted(how, clips(2)[-2:]), 2 * short.shape[1])
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
