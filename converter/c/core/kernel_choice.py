# SPDX-License-Identifier: Apache-2.0
"""Which kernel variant of a set runs a layer, what it reads and what scratch it needs; None where a portable one does.

The limits of the fast kernels stand here, each where it is asked; scratch sizes are those that the C files name.
"""

from dataclasses import dataclass
from typing import Literal

from converter.c.core.kernel_shapes import Conv2dShape, DepthwiseShape, FullyConnectedShape
from converter.c.core.program import KernelSet

Form = Literal["relu", "any", "exact"]
#: Who writes a layer's weights: "portable" as kernels.h says, the others in dsp_streams and helium_streams.
Stream = Literal["portable", "halves", "3x3", "helium"]

_PLANE_ROWS = 10
_LARGEST_SUM_16_BITS = 256
_HELIUM_CHUNK, _HELIUM_PITCH, _HELIUM_MOST_COLUMNS = 16, 128, 60


@dataclass(frozen=True)
class Choice:
    """A variant with its stream; ``in_place``: its output may take its input's memory; ``turned``: axes exchanged."""

    variant: str
    stream: Stream
    scratch_bytes: int
    in_place: bool = False
    turned: bool = False


def conv2d(
    shape: Conv2dShape, form: Form, kernel_set: KernelSet, *, int4: bool = False, halves: bool = False
) -> Choice | None:
    """Choose for conv2d. ``halves``: weights and scales fit ``dsp_streams.conv2d_halves``; int4: sums below 2**27."""
    if kernel_set == "portable":
        return None
    if kernel_set == "helium":
        direct = shape.by_pixel and shape.in_c % _HELIUM_CHUNK == 0
        windows = 0 if direct else 2 * (-(-shape.k // _HELIUM_CHUNK) * _HELIUM_CHUNK)
        return Choice(f"conv2d/helium/{form}{'-int4' if int4 else ''}", "helium", windows)
    halves = halves and form != "exact" and not int4
    name = f"conv2d/dsp/{form}{'-int4' if int4 else '-halves' if halves else ''}"
    direct = shape.by_pixel and shape.in_c % 4 == 0
    in_place = direct and shape.in_c >= shape.out_c
    return Choice(name, "halves" if halves else "portable", _conv2d_scratch(shape, form, direct), in_place)


def _conv2d_scratch(shape: Conv2dShape, form: Form, direct: bool) -> int:
    even = -(-shape.out_c // 2) * 2
    pixels = shape.out_h * shape.out_w * (shape.batches if direct else 1)
    tiles = 0 if direct else 4 * shape.k
    if form != "exact" and (shape.out_c % 2 or pixels % 4):
        tiles = max(tiles, 4 * even)
    leftovers = 4 * (-(-shape.rows * (shape.row_bytes % 4) // 4) * 4)
    return shape.k_quads * 32 + leftovers + (16 * even if form == "exact" else 0) + tiles


def depthwise(shape: DepthwiseShape, form: Form, kernel_set: KernelSet, *, packed: bool = False) -> Choice | None:
    """Choose for a depthwise convolution. ``packed``: one word holds ``c`` and ``l``."""
    if kernel_set == "portable":
        return None
    if kernel_set == "helium":
        return _depthwise_helium(shape.turned() if shape.is_tall else shape, form, shape.is_tall)
    if packed and _is_3x3(shape) and shape.in_c % 4 == 0 and form != "exact":
        return _depthwise_3x3(shape.turned() if shape.is_tall else shape, form, shape.is_tall)
    columns = (shape.out_w - 1) * shape.stride_w + (shape.kernel_w - 1) * shape.dilation_w + 1
    plane_rows, one_chunk = _plane_rows(shape)
    row_halves = (-(-columns // shape.dilation_w) + 1) * shape.dilation_w
    plane_halves = -(-plane_rows * row_halves // 2) * 2
    weights = shape.kernel_h * (-(-shape.kernel_w // 2)) * 4
    in_place = shape.same_place and one_chunk
    return Choice(f"depthwise/dsp/{form}", "portable", plane_halves * 8 + weights, in_place)


def chunk_rows(shape: DepthwiseShape) -> int:
    """Return how many output rows a depthwise kernel makes of one plane, as every ``depthwise.c`` counts them."""
    fit = (_PLANE_ROWS - shape.window_rows) // shape.stride_h + 1 if shape.window_rows < _PLANE_ROWS else 1
    return min(fit, shape.out_h)


def _plane_rows(shape: DepthwiseShape) -> tuple[int, bool]:
    """Return the input rows that a chunk of output rows needs, and whether one chunk holds all."""
    rows = chunk_rows(shape)
    return (rows - 1) * shape.stride_h + shape.window_rows, rows == shape.out_h


def _depthwise_helium(shape: DepthwiseShape, form: Form, turned: bool) -> Choice:
    stride = shape.stride_w
    if _is_3x3(shape) and form != "exact" and (stride == 1 or shape.out_w <= _HELIUM_MOST_COLUMNS):
        pitch = -(-(shape.out_w + 4) // 4) * 4 if stride == 1 else _HELIUM_PITCH
        in_place = shape.same_place and shape.out_h <= (_PLANE_ROWS - 3) // stride + 1
        variant = f"depthwise/helium/{form}-3x3-s{stride}"
        return Choice(variant, "portable", _PLANE_ROWS * pitch, in_place, turned)
    columns = -(-shape.out_w // 4) * 4
    read = (columns - 1) * shape.stride_w + (shape.kernel_w - 1) * shape.dilation_w + 1
    plane_rows, one_chunk = _plane_rows(shape)
    scratch_bytes = plane_rows * (-(-read // 4) * 4)
    return Choice(f"depthwise/helium/{form}", "portable", scratch_bytes, shape.same_place and one_chunk, turned)


def _is_3x3(shape: DepthwiseShape) -> bool:
    return (
        (shape.kernel_h, shape.kernel_w, shape.dilation_h, shape.dilation_w, shape.multiplier) == (3, 3, 1, 1, 1)
        and shape.stride_h == shape.stride_w <= 2
        and max(shape.pad_left, shape.pad_top) <= 1
    )


def _depthwise_3x3(shape: DepthwiseShape, form: Form, turned: bool) -> Choice:
    stride = shape.stride_w
    pairs = ((shape.out_w - 1) * stride + 4) // 2 + 1
    one_chunk = shape.out_h <= (_PLANE_ROWS - 3) // stride + 1
    variant = f"depthwise/dsp/{form}-3x3-s{stride}"
    return Choice(variant, "3x3", pairs * _PLANE_ROWS * 4 * 4, shape.same_place and one_chunk, turned)


def fully_connected(
    shape: FullyConnectedShape, form: Form, kernel_set: KernelSet, *, int4: bool = False, halves: bool = False
) -> Choice | None:
    """Choose for fully connected. ``halves``: the weights fit ``dsp_streams.fit_halves``; int4 sums below 2**27."""
    if kernel_set == "portable":
        return None
    if kernel_set == "helium":
        return Choice(f"fully_connected/helium/{form}{'-int4' if int4 else ''}", "helium", 0)
    halves = halves and not int4
    name = f"fully_connected/dsp/{form}{'-int4' if int4 else '-halves' if halves else ''}"
    scratch_bytes = shape.k_quads * 8 + -(-shape.out_n // 4) * 16
    return Choice(name, "halves" if halves else "portable", scratch_bytes)


def average_pool(kernel_h: int, kernel_w: int, kernel_set: KernelSet) -> str:
    """Return the variant of an average pool."""
    wide = kernel_set == "dsp" and kernel_h * kernel_w > _LARGEST_SUM_16_BITS
    return f"average_pool/{'portable' if wide else kernel_set}/exact"


def max_pool(kernel_set: KernelSet) -> str:
    """Return the variant of a max pool."""
    return f"max_pool/{kernel_set}/exact"


def mean(shape: tuple[int, ...], kernel_set: KernelSet) -> str:
    """Return the variant of a mean over ``ef_mean_layer``'s five axes."""
    fast = kernel_set != "portable" and shape[3:] == (1, 1)
    return f"mean/{kernel_set}/rows" if fast else "mean/portable/exact"


def add_flat(kernel_set: KernelSet) -> str:
    """Return the variant of a flat sum."""
    return f"add/{kernel_set}/flat"
