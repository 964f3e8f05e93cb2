# SPDX-License-Identifier: Apache-2.0
"""Pictures in C: sizes and a table of 256 levels are all that the kernel needs, and the result is exact.

Resizing adds whole numbers and divides once, as :mod:`edgefleet.runtimes.preprocessing` does; scale, offset and
quantization are a function of one of 256 levels, so the reference itself makes the table.
"""

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from converter.c.core.preprocessing_source import Part, array
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import ImagePreprocessing, TensorSpec
from edgefleet.runtimes.preprocessing import preprocess_image
from edgefleet.runtimes.tensors import quantize

_MOST_PIXELS_A_SIDE = 16383
#: The reference rounds weights whose sum is larger (edgefleet.runtimes.preprocessing), which the kernel does not.
_LARGEST_TOTAL = 1 << 22
_ANY = 0xFFFFFFFF
_LEVELS = 256


@dataclass(frozen=True)
class Frame:
    """What a camera gives: rows of 8-bit pixels, ``channels`` 3 (RGB) or 1 (grey)."""

    height: int
    width: int
    channels: int = 3


@dataclass(frozen=True)
class Axis:
    """One axis of resizing, as ``ef_axis`` has it."""

    size_in: int
    size_out: int
    part_in: int
    part_out: int
    reach: int
    cap: int

    def weights(self) -> list[list[int]]:
        """Return the weights over 0 of each pixel of the result, in the order of the frame's pixels."""
        inside = (2 * np.arange(self.size_in) + 1) * self.part_out
        made = []
        for out in range(self.size_out):
            weights = np.minimum(self.reach - np.abs(inside - (2 * out + 1) * self.part_in), self.cap)
            made.append([int(weight) for weight in weights if weight > 0])
        return made


def axis(size_in: int, size_out: int, resize: str) -> Axis:
    """Return an axis, with sizes over their greatest common divisor: quotients of sums do not change."""
    divisor = math.gcd(size_in, size_out)
    part_in, part_out = size_in // divisor, size_out // divisor
    if resize == "area":
        return Axis(size_in, size_out, part_in, part_out, part_in + part_out, 2 * min(part_in, part_out))
    return Axis(size_in, size_out, part_in, part_out, 2 * max(part_in, part_out), _ANY)


def picture_part(how: ImagePreprocessing, spec: TensorSpec, name: str, frame: Frame | None) -> Part:
    """Return the C that makes a model's input of a camera's rows.

    Raises:
        UnsupportedModelError: a side is too long for the kernel's whole numbers.
    """
    channels = 1 if how.channels == "GRAY" else 3
    frame = frame or Frame(*how.size, channels)
    _check(frame, how)
    down, across = axis(frame.height, how.size[0], how.resize), axis(frame.width, how.size[1], how.resize)
    kind = _kind(frame, how)
    rows, wide = _sums(down, across) if kind == "EF_PICTURE_WEIGHTED" else (0, False)
    scratch = 4 * (across.size_out + rows + rows * across.size_out * frame.channels) if rows else 0
    colours = "RGB" if frame.channels == 3 else "grey"
    size = f"{frame.height} x {frame.width} {colours}"
    facts = (
        f"const ef_picture_facts {name}_picture = {{\n    {_axis_text(down)}, {_axis_text(across)}, {kind},\n"
        f"    {frame.channels}, {channels}, {int(how.channels == 'BGR')}, {int(wide)}, {rows}, levels,\n}};\n"
    )
    return Part(
        title=f"Pictures: {size} -> {how.size[0]} x {how.size[1]} {how.channels}, {how.resize}, exact.",
        declarations=_declarations(name, size, frame),
        definitions=array("int8_t", "levels", _levels(how, spec), note="The input's value for each level of a pixel.")
        + f"\n{facts}\n{_call(name, frame)}",
        kernel_sources=("preprocess/picture.c",),
        scratch_bytes=scratch,
    )


def _check(frame: Frame, how: ImagePreprocessing) -> None:
    sides = (frame.height, frame.width, *how.size)
    if min(sides) < 1 or max(sides) > _MOST_PIXELS_A_SIDE or frame.channels not in (1, 3):
        raise UnsupportedModelError(
            f"no C makes {how.size[0]} × {how.size[1]} pixels of a frame of {frame.height} × {frame.width} × "
            f"{frame.channels}: sides are 1 to {_MOST_PIXELS_A_SIDE} pixels, channels 1 or 3",
            hint="name the size of the camera's frame as it is",
        )


def _kind(frame: Frame, how: ImagePreprocessing) -> str:
    if (frame.height, frame.width) == how.size:
        return "EF_PICTURE_AS_IT_IS"
    return "EF_PICTURE_NEAREST" if how.resize == "nearest" else "EF_PICTURE_WEIGHTED"


def _sums(down: Axis, across: Axis) -> tuple[int, bool]:
    """Return the rows that one row of the result is made of, and whether sums leave 32 bits."""
    totals = []
    for one in (down, across):
        totals.append(max(map(sum, one.weights())))
        if totals[-1] * (one.size_in // one.part_in) > _LARGEST_TOTAL:
            raise UnsupportedModelError(
                f"no C resizes {one.size_in} pixels to {one.size_out}: the weights leave 32 bits",
                hint="let the camera give smaller frames",
            )
    return max(map(len, down.weights())), (2 * (_LEVELS - 1) + 1) * totals[0] * totals[1] >= 1 << 32


def _levels(how: ImagePreprocessing, spec: TensorSpec) -> list[int]:
    """Ask the reference for each level: a grey picture with all of them, of the size that it keeps."""
    every = np.arange(_LEVELS, dtype=np.uint8).reshape(16, 16)
    plain = msgspec.structs.replace(how, size=(16, 16), channels="GRAY")
    return [int(level) for level in quantize(preprocess_image(every, plain), spec).reshape(-1)]


def _axis_text(one: Axis) -> str:
    return f"{{{one.size_in}, {one.size_out}, {one.part_in}, {one.part_out}, {one.reach}u, {one.cap}u}}"


def _declarations(name: str, size: str, frame: Frame) -> str:
    upper = name.upper()
    return (
        f"#define {upper}_FRAME_HEIGHT {frame.height}\n#define {upper}_FRAME_WIDTH {frame.width}\n"
        f"#define {upper}_FRAME_CHANNELS {frame.channels}\n\n"
        f"/* Row by row, as a camera gives them: ef_picture_begin(&picture, &{name}_picture, scratch, input), then\n"
        f" * ef_picture_row(&picture, row) for {frame.height} rows of {frame.width * frame.channels} bytes. */\n"
        f"extern const ef_picture_facts {name}_picture;\n\n"
        f"/* A whole frame, {size}. */\n"
        f"void {name}_preprocess(const uint8_t *frame, void *scratch, int8_t *input);\n"
    )


def _call(name: str, frame: Frame) -> str:
    return (
        f"void {name}_preprocess(const uint8_t *frame, void *scratch, int8_t *input)\n{{\n    ef_picture picture;\n"
        f"    ef_picture_begin(&picture, &{name}_picture, scratch, input);\n"
        f"    for (uint32_t y = 0; y < {frame.height}; y++) "
        f"ef_picture_row(&picture, frame + y * {frame.width * frame.channels}u);\n}}\n"
    )
