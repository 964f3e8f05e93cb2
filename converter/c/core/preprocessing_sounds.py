# SPDX-License-Identifier: Apache-2.0
"""Sounds in C: waveforms exactly, log-mel bands and MFCC in fixed point with tables made of the reference's own.

Bound of the spectra (measured by tests/firmware/test_sounds_in_c.py): at least 99 % of the inputs' values equal the
reference's, none is more than 1 away.
"""

import math
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from converter.c.core.preprocessing_source import Part, Scaling, array, scaling
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import AudioPreprocessing, TensorSpec
from edgefleet.runtimes.audio import audio_shape, cosines, hann, mel, mel_edges, mel_filters, preprocess_audio
from edgefleet.runtimes.tensors import quantize

_LEAST_FFT, _MOST_FFT = 8, 4096
#: Below, the noise of Q31 sines under a full-scale tone would show; above, sums would leave 64 bits.
_LEAST_LOG_OFFSET, _MOST_LOG_OFFSET = 1e-7, 1000.0
_UNIT_BITS, _LOG_BITS, _WINDOW_BITS, _SINE_BITS, _COSINE_BITS = 47, 20, 31, 31, 30
_LARGEST_SHARE = (1 << 32) - 1
#: The tables may differ from the reference's filters by this much: one step of a share, and the reference's own 2^-40.
_SHARE_ERROR = 2.0**-31
#: How far silence may be pushed to where the reference rounds it, in steps of the input.
_PUSHES = (0.0, *(sign * 2.0**-bits for bits in (14, 12, 10, 8) for sign in (1, -1)))


def sound_part(how: AudioPreprocessing, spec: TensorSpec, name: str) -> Part:
    """Return the C that makes a model's input of int16 samples.

    Raises:
        UnsupportedModelError: an FFT, a logarithm or a scale that the kernel has no numbers for.
    """
    return _waveform_part(how, spec, name) if how.kind == "waveform" else _spectrum_part(how, spec, name)


def _waveform_part(how: AudioPreprocessing, spec: TensorSpec, name: str) -> Part:
    low, high, thresholds = waveform_thresholds(how, spec)
    step = (spec.scale or 1.0) * 32768.0
    guess = scaling(how.scale / step, how.offset / (spec.scale or 1.0) + (spec.zero_point or 0)) or Scaling(0, 0, 0)
    facts = (
        f"const ef_waveform_facts {name}_waveform = {{\n    {how.clip_samples}, {low}, {high}, {int(how.scale < 0)}, "
        f"{guess.shift}, {guess.multiply}, {_long(guess.add)}, thresholds,\n}};\n"
    )
    return Part(
        title=f"A waveform of {how.clip_samples} samples at {how.sample_rate_hz} Hz, exact.",
        declarations=(
            f"extern const ef_waveform_facts {name}_waveform;\n\n"
            f"/* A clip; silence follows where it is shorter than {how.clip_samples} samples. Needs no scratch. */\n"
            f"void {name}_preprocess(const int16_t *clip, uint32_t samples, int8_t *input);\n"
        ),
        definitions=(
            array("int16_t", "thresholds", thresholds, note="Samples at which the input's value changes.")
            + f"\n{facts}\nvoid {name}_preprocess(const int16_t *clip, uint32_t samples, int8_t *input)\n{{\n"
            + f"    ef_waveform(&{name}_waveform, clip, samples, input);\n}}\n"
        ),
        kernel_sources=("preprocess/waveform.c",),
    )


def waveform_thresholds(how: AudioPreprocessing, spec: TensorSpec) -> tuple[int, int, list[int]]:
    """Return the smallest and largest value of the input, and the outermost sample that reaches each value between.

    The reference is asked for all 65,536 samples: with every step of it monotone, this is the whole function.
    """
    samples = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    every = msgspec.structs.replace(how, clip_samples=len(samples))
    values = quantize(preprocess_audio(samples, every), spec).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    ordered = values if how.scale > 0 else values[::-1]
    outermost = np.searchsorted(ordered, np.arange(low + 1, high + 1))
    return low, high, [int(samples[i] if how.scale > 0 else samples[::-1][i]) for i in outermost]


def _spectrum_part(how: AudioPreprocessing, spec: TensorSpec, name: str) -> Part:
    _check_spectrum(how)
    frames, features = audio_shape(how)
    edges, shares = slopes(how)
    coefficients = how.coefficients if how.kind == "mfcc" else 0
    numbers = _quantization(how, spec)
    tables = [
        array("int32_t", "window", _fixed(hann(how.frame_samples)[: how.frame_samples // 2 + 1], _WINDOW_BITS)),
        array("int32_t", "sine", _quarter_sine(how.fft_samples)),
        array("uint16_t", "edges", edges, note="The first line of the spectrum on each slope of the mel filters."),
        array("uint32_t", "rising", (f"{share}u" for share in shares)),
    ]
    if coefficients:
        tables.append(array("int32_t", "cosines", _fixed(cosines(how.mel_bins, coefficients).T, _COSINE_BITS)))
    offset = round(how.log_offset * 2.0**_UNIT_BITS)
    facts = (
        f"const ef_sound_facts {name}_sound = {{\n    {how.frame_samples}, {how.stride_samples}, {frames}, "
        f"{how.fft_samples}, {how.mel_bins}, {coefficients},\n    window, sine, edges, rising, "
        f"{'cosines' if coefficients else 'NULL'}, {offset}ull, {_long(numbers.add)}, {numbers.multiply}, "
        f"{numbers.shift},\n}};\n"
    )
    return Part(
        title=f"{how.kind} of {how.sample_rate_hz} Hz: frames of {how.frame_samples} samples every "
        f"{how.stride_samples}, {frames} x {features}.",
        declarations=_spectrum_declarations(how, name, frames, features),
        definitions="".join(tables) + f"\n{facts}\n{_spectrum_calls(name)}",
        kernel_sources=("preprocess/sound.c",),
        scratch_bytes=8 * how.fft_samples + 4 * how.mel_bins,
    )


def _check_spectrum(how: AudioPreprocessing) -> None:
    power_of_two = how.fft_samples & (how.fft_samples - 1) == 0
    if not power_of_two or not _LEAST_FFT <= how.fft_samples <= _MOST_FFT:
        raise _no_c(
            f"fft_samples is {how.fft_samples}, and the C has powers of two from {_LEAST_FFT} to {_MOST_FFT}",
            hint="choose such a length; frames may be shorter than the transform",
        )
    if not _LEAST_LOG_OFFSET <= how.log_offset <= _MOST_LOG_OFFSET:
        raise _no_c(
            f"log_offset is {how.log_offset:g}, and fixed point has {_LEAST_LOG_OFFSET:g} to {_MOST_LOG_OFFSET:g}",
            hint="1e-6 is the default",
        )


def _no_c(reason: str, *, hint: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the audio preprocessing cannot be written as C: {reason}", hint=hint)


def slopes(how: AudioPreprocessing) -> tuple[list[int], list[int]]:
    """Return the first line of each slope of the mel filters (and the end), and each line's share in the rising band.

    Between two edges a line's weights in the falling and in the rising band are 1 together, so one number holds both.

    Raises:
        ValueError: the two tables are not the reference's filters, which would be a fault of this module.
    """
    edges = mel_edges(how.mel_bins, how.low_hz, how.high_hz)
    lines = np.array([mel(line * how.sample_rate_hz / how.fft_samples) for line in range(how.fft_samples // 2)])
    first = [max(1, int(place)) for place in np.searchsorted(lines, edges)]
    shares = []
    for slope in range(how.mel_bins + 1):
        rising = (lines[first[slope] : first[slope + 1]] - edges[slope]) / (edges[slope + 1] - edges[slope])
        shares += [min(_LARGEST_SHARE, round(float(share) * 2.0**32)) for share in rising]
    reference = mel_filters(how.fft_samples, how.mel_bins, how.sample_rate_hz, how.low_hz, how.high_hz)
    if np.abs(_filters(first, shares, reference.shape) - reference).max() > _SHARE_ERROR:
        raise ValueError("the slopes are not the mel filters of edgefleet.runtimes.audio")
    return first, shares


def _filters(first: list[int], shares: list[int], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the matrix of weights, shape (lines, bands), that the two tables stand for."""
    filters = np.zeros(shape)
    for slope, (begin, end) in enumerate(pairwise(first)):
        rising = np.array(shares[begin - first[0] : end - first[0]]) / 2.0**32
        if slope < shape[1]:
            filters[begin:end, slope] = rising
        if slope > 0:
            filters[begin:end, slope - 1] = 1.0 - rising
    return filters


def _quantization(how: AudioPreprocessing, spec: TensorSpec) -> Scaling:
    """Return how a base-2 logarithm becomes the input's value, with silence on the reference's side of a tie."""
    step, zero_point = spec.scale or 1.0, spec.zero_point or 0
    factor = math.log(2.0) * how.scale / step * 2.0**-_LOG_BITS
    silence = np.zeros(how.clip_samples, dtype=np.int16)
    expected = quantize(preprocess_audio(silence, how), spec)[0].tolist()
    found = [scaling(factor, how.offset / step + zero_point + push) for push in _PUSHES]
    numbers = [one for one in found if one is not None]
    if not numbers:
        raise _no_c(
            f"its scale {how.scale:g} and offset {how.offset:g} are too large for the input's scale {step:g}",
            hint="correct the preprocessing's scale",
        )
    return next((one for one in numbers if _silence(how, one) == expected), numbers[0])


def _silence(how: AudioPreprocessing, numbers: Scaling) -> list[int]:
    """Return what the kernel makes of a silent frame, computed as it computes it."""
    logarithm = log2_fixed(round(how.log_offset * 2.0**_UNIT_BITS))
    logarithms = [logarithm] * how.mel_bins
    if how.kind == "mfcc":
        table = np.array(_fixed(cosines(how.mel_bins, how.coefficients).T, _COSINE_BITS)).reshape(how.coefficients, -1)
        logarithms = [sum(int(weight) * logarithm for weight in row) >> _COSINE_BITS for row in table]
    values = [(one * numbers.multiply + numbers.add) >> numbers.shift for one in logarithms]
    return [min(max(value, -128), 127) for value in values]


def log2_fixed(magnitude: int) -> int:
    """Return log2 of a magnitude in units of 2^-47, Q20, as the kernel computes it: by squaring, bit by bit."""
    zeros = 64 - magnitude.bit_length()
    mantissa, fraction = (magnitude << zeros) >> 32, 0
    for _ in range(_LOG_BITS):
        square = mantissa * mantissa
        over = square >> 63
        mantissa, fraction = square >> (31 + over), 2 * fraction + over
    return ((63 - zeros - _UNIT_BITS) << _LOG_BITS) + fraction


def _quarter_sine(fft_samples: int) -> list[int]:
    """Return the first quarter of a sine in Q31; its last number, 1, is never used."""
    turn = 2.0 * math.pi / fft_samples
    sines = [math.sin(turn * n) for n in range(fft_samples // 4 + 1)]
    return _fixed(np.array(sines), _SINE_BITS)


def _fixed(table: npt.NDArray[np.float64], bits: int) -> list[int]:
    """Return whole numbers of 32 bits; a 1 that has no place in Q31 becomes the largest number."""
    return [min(int(number), (1 << 31) - 1) for number in np.rint(table * 2.0**bits).reshape(-1)]


def _long(number: int) -> str:
    return f"{number}ll"


def _spectrum_declarations(how: AudioPreprocessing, name: str, frames: int, features: int) -> str:
    upper = name.upper()
    return (
        f"#define {upper}_FRAMES {frames}\n#define {upper}_FRAME_SAMPLES {how.frame_samples}\n"
        f"#define {upper}_STRIDE_SAMPLES {how.stride_samples}\n#define {upper}_FEATURES {features}\n\n"
        f"extern const ef_sound_facts {name}_sound;\n\n"
        f"/* One frame, for live sound: {features} values of {how.frame_samples} samples; the next frame begins\n"
        f" * {how.stride_samples} samples later. The input is the last {frames} of them, the oldest first. */\n"
        f"void {name}_preprocess_frame(const int16_t *samples, void *scratch, int8_t *features);\n\n"
        f"/* A whole clip; silence follows where it is shorter than {how.clip_samples} samples. */\n"
        f"void {name}_preprocess(const int16_t *clip, uint32_t samples, void *scratch, int8_t *input);\n"
    )


def _spectrum_calls(name: str) -> str:
    return (
        f"void {name}_preprocess_frame(const int16_t *samples, void *scratch, int8_t *features)\n{{\n"
        f"    ef_sound_frame(&{name}_sound, samples, {name}_sound.frame_samples, scratch, features);\n}}\n\n"
        f"void {name}_preprocess(const int16_t *clip, uint32_t samples, void *scratch, int8_t *input)\n{{\n"
        f"    ef_sound_clip(&{name}_sound, clip, samples, scratch, input);\n}}\n"
    )
