# SPDX-License-Identifier: Apache-2.0
"""Sounds and rows of numbers as a model takes them, against formulas written down from their definitions."""

import cmath
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgefleet.contracts.errors import SampleError
from edgefleet.contracts.manifest import AudioPreprocessing, FeaturePreprocessing, ImagePreprocessing, Preprocessing
from edgefleet.runtimes.audio import audio_shape, preprocess_audio
from edgefleet.runtimes.preprocessing import check_parts, made_shape, preprocess

SMALL = AudioPreprocessing(
    kind="mfcc", sample_rate_hz=8000, clip_samples=200, frame_samples=50, stride_samples=30, fft_samples=64,
    mel_bins=8, low_hz=100.0, high_hz=3500.0, coefficients=5,
)  # fmt: skip


def changed(how: AudioPreprocessing = SMALL, **fields: Any) -> AudioPreprocessing:
    return msgspec.structs.replace(how, **fields)


def slow_log_mel(clip: list[float], how: AudioPreprocessing) -> list[list[float]]:
    """The definition, one number after the other."""
    clip = (clip + [0.0] * how.clip_samples)[: how.clip_samples]
    frames = []
    for start in range(0, how.clip_samples - how.frame_samples + 1, how.stride_samples):
        window = [
            clip[start + n] * math.sin(math.pi * n / how.frame_samples) ** 2 for n in range(how.frame_samples)
        ]  # Hann's window, by the half angle
        lines = [
            abs(sum(v * cmath.exp(-2j * math.pi * k * n / how.fft_samples) for n, v in enumerate(window)))
            for k in range(how.fft_samples // 2 + 1)
        ]
        frames.append([math.log(band(lines, number, how) + how.log_offset) for number in range(how.mel_bins)])
    return frames


def band(lines: list[float], number: int, how: AudioPreprocessing) -> float:
    def mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)  # HTK's own way to write it, equal but for a factor

    step = (mel(how.high_hz) - mel(how.low_hz)) / (how.mel_bins + 1)
    peak = mel(how.low_hz) + (number + 1) * step
    total = 0.0
    for k, magnitude in enumerate(lines[1:], start=1):
        total += magnitude * max(0.0, 1.0 - abs(mel(k * how.sample_rate_hz / how.fft_samples) - peak) / step)
    return total


def slow_mfcc(clip: list[float], how: AudioPreprocessing) -> list[list[float]]:
    n = how.mel_bins
    return [
        [
            math.sqrt((1.0 if k == 0 else 2.0) / n)
            * sum(value * math.cos(math.pi * k * (i + 0.5) / n) for i, value in enumerate(frame))
            for k in range(how.coefficients)
        ]
        for frame in slow_log_mel(clip, how)
    ]


@settings(max_examples=15, deadline=None)
@given(arrays(np.float32, st.integers(1, 230), elements=st.floats(-1, 1, width=32)))
def test_mfcc_and_log_mel_are_what_their_definitions_say(clip: np.ndarray) -> None:
    numbers = [float(value) for value in clip]
    np.testing.assert_allclose(preprocess_audio(clip, SMALL), slow_mfcc(numbers, SMALL), rtol=1e-5, atol=1e-5)
    mel = changed(kind="log-mel")
    np.testing.assert_allclose(preprocess_audio(clip, mel), slow_log_mel(numbers, mel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["waveform", "log-mel", "mfcc"])
@pytest.mark.parametrize("samples", [16_000, 15_999, 480])
def test_the_shape_is_known_before_a_clip_is_heard(kind: Any, samples: int) -> None:
    how = AudioPreprocessing(kind=kind, sample_rate_hz=16_000, clip_samples=samples)
    made = preprocess_audio(np.ones(9000, np.int16), how)
    assert made.shape == audio_shape(how) == made_shape(Preprocessing(audio=how))
    assert made.dtype == np.float32


def test_integers_are_shares_of_full_scale_and_short_clips_end_in_silence() -> None:
    how = changed(kind="waveform", clip_samples=4)
    assert preprocess_audio(np.array([-32768, 16384], np.int16), how).tolist() == [-1.0, 0.5, 0.0, 0.0]
    assert preprocess_audio(np.array([0.5, -0.25, 0.0, 1.0, 9.0], np.float32), how).tolist() == [0.5, -0.25, 0.0, 1.0]


def test_scale_and_offset_come_last() -> None:
    clip = np.linspace(-1, 1, 200, dtype=np.float32)
    plain = preprocess_audio(clip, SMALL)
    np.testing.assert_allclose(preprocess_audio(clip, changed(scale=2.0, offset=3.0)), plain * 2 + 3, rtol=1e-6)


def test_silence_has_the_logarithm_of_the_offset() -> None:
    quiet = preprocess_audio(np.zeros(200, np.int16), changed(kind="log-mel", log_offset=1e-4))
    assert quiet == pytest.approx(math.log(1e-4), rel=1e-6)


def test_a_bundle_applies_it_as_preprocess() -> None:
    clip = np.linspace(-1, 1, 200, dtype=np.float32)
    assert (preprocess(clip, Preprocessing(audio=SMALL)) == preprocess_audio(clip, SMALL)).all()


@pytest.mark.parametrize(
    ("clip", "described"),
    [
        (np.zeros((200, 2), np.int16), "int16 with shape [200, 2]"),
        (np.zeros(200, np.float64), "float64 with shape [200]"),
        (np.zeros(0, np.int16), "int16 with shape [0]"),
    ],
)
def test_what_is_no_clip_is_refused(clip: np.ndarray, described: str) -> None:
    with pytest.raises(SampleError) as refused:
        preprocess_audio(clip, SMALL)
    assert refused.value.message == (
        f"a clip is an array of {described}, expected int16 or float32 [samples], one channel"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 0.0}, "has a scale of 0, or a number that is not finite"),
        ({"offset": math.nan}, "has a scale of 0, or a number that is not finite"),
        ({"frame_samples": 300, "fft_samples": 512}, "has frames (frame_samples) longer than the clip (clip_samples)"),
        ({"frame_samples": 65}, "has frames (frame_samples) longer than fft_samples"),
        ({"high_hz": 4001.0}, "needs 0 ≤ low_hz < high_hz ≤ 4000, half the rate"),
        ({"low_hz": 3500.0}, "needs 0 ≤ low_hz < high_hz ≤ 4000, half the rate"),
        ({"log_offset": 0.0}, "needs a log_offset over 0, as the logarithm of silence has no end"),
        ({"coefficients": 9}, "has more coefficients than mel_bins"),
        ({"clip_samples": 1 << 40}, f"makes clips of {1 << 40} samples, over {1 << 22}"),
        ({"fft_samples": 1 << 30}, "makes more numbers than a board's memory holds"),
        ({"mel_bins": 1 << 30}, "makes more numbers than a board's memory holds"),
    ],
)
def test_a_sound_preprocessing_that_contradicts_itself(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError) as refused:
        check_parts(Preprocessing(audio=changed(**fields)))
    assert refused.value.message == f"the audio preprocessing {message}"


def test_columns_are_centred_and_scaled() -> None:
    how = Preprocessing(features=FeaturePreprocessing(mean=(1.0, -2.0), deviation=(2.0, 0.5)))
    made = preprocess(np.array([5, -2], np.int32), how)
    assert (made.dtype, made.tolist(), made_shape(how)) == (np.float32, [2.0, 0.0], (2,))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Preprocessing(features=FeaturePreprocessing(mean=(1.0,), deviation=(1.0, 2.0))),
         "the preprocessing has 1 means and 2 deviations"),
        (Preprocessing(features=FeaturePreprocessing(mean=(1.0,), deviation=(0.0,))),
         "the preprocessing has a deviation of 0, or a number that is not finite"),
        (Preprocessing(image=ImagePreprocessing(size=(1, 1)), audio=SMALL),
         "the preprocessing has [image] and [audio], and an input is one of them"),
    ],
)  # fmt: skip
def test_a_preprocessing_that_cannot_be_meant(how: Preprocessing, message: str) -> None:
    with pytest.raises(SampleError) as refused:
        check_parts(how)
    assert refused.value.message == message


@pytest.mark.parametrize("row", [np.zeros(3), np.zeros((1, 2)), np.array(["a", "b"])])
def test_a_row_of_other_columns_is_refused(row: np.ndarray) -> None:
    how = Preprocessing(features=FeaturePreprocessing(mean=(0.0, 0.0), deviation=(1.0, 1.0)))
    with pytest.raises(SampleError) as refused:
        preprocess(row, how)
    assert refused.value.message == (
        f"a row is an array of {row.dtype} with shape {list(row.shape)}, expected 2 numbers"
    )
