# SPDX-License-Identifier: Apache-2.0
"""The layers with weights as ``kernels.h`` has them: what kernels read beside offsets and streams."""

import struct
from dataclasses import astuple, dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Conv2dShape:
    """``ef_conv2d_layer``."""

    batches: int
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    in_zero: int
    out_zero: int
    act_min: int
    act_max: int
    rounding: int

    _FORMAT: ClassVar = struct.Struct("<20hi")

    @property
    def row_bytes(self) -> int:
        """Inputs of one kernel row; with dilated columns each tap is a row."""
        return self.in_c * (self.kernel_w if self.dilation_w == 1 else 1)

    @property
    def rows(self) -> int:
        """Rows under one window."""
        return self.kernel_h * (1 if self.dilation_w == 1 else self.kernel_w)

    @property
    def k(self) -> int:
        """Weights of one channel."""
        return self.kernel_h * self.kernel_w * self.in_c

    @property
    def k_quads(self) -> int:
        """Weights of one channel in fours."""
        return -(-self.k // 4)

    @property
    def by_pixel(self) -> bool:
        """Whether each pixel is a window of its own, one after the other (1x1, stride 1)."""
        return (self.kernel_h, self.kernel_w, self.stride_h, self.stride_w) == (1, 1, 1, 1)

    def pack(self) -> bytes:
        """Return the C structure behind its offsets."""
        return self._FORMAT.pack(*astuple(self), self.k_quads)


@dataclass(frozen=True)
class DepthwiseShape:
    """``ef_depthwise_layer``."""

    batches: int
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    multiplier: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    in_zero: int
    out_zero: int
    act_min: int
    act_max: int
    rounding: int
    in_x_step: int
    in_y_step: int
    out_x_step: int
    out_y_step: int

    _FORMAT: ClassVar = struct.Struct("<20h4i")

    @property
    def same_place(self) -> bool:
        """Whether each output has the place of an input."""
        return (self.in_h, self.in_w, 1) == (self.out_h, self.out_w, self.multiplier)

    @property
    def is_tall(self) -> bool:
        """Whether kernels want its axes exchanged, so that the long one lies inside."""
        return self.out_h > 2 * self.out_w

    @property
    def window_rows(self) -> int:
        """Input rows from the first to the last of one window."""
        return (self.kernel_h - 1) * self.dilation_h + 1

    def turned(self) -> "DepthwiseShape":
        """Return the same layer with its axes exchanged; its weights must be, too."""
        return DepthwiseShape(
            self.batches, self.in_w, self.in_h, self.in_c, self.out_w, self.out_h, self.multiplier,
            self.kernel_w, self.kernel_h, self.stride_w, self.stride_h, self.dilation_w, self.dilation_h,
            self.pad_left, self.pad_top, self.in_zero, self.out_zero, self.act_min, self.act_max, self.rounding,
            self.in_y_step, self.in_x_step, self.out_y_step, self.out_x_step,
        )  # fmt: skip

    def pack(self) -> bytes:
        """Return the C structure behind its offsets."""
        return self._FORMAT.pack(*astuple(self))


@dataclass(frozen=True)
class FullyConnectedShape:
    """``ef_fully_connected_layer``; scale is k, m, c, l of all outputs, zeros where per channel."""

    rows: int
    in_n: int
    out_n: int
    per_channel: bool
    out_zero: int
    act_min: int
    act_max: int
    rounding: int
    scale: tuple[int, int, int, int] = (0, 0, 0, 0)

    _FORMAT: ClassVar = struct.Struct("<4i6h4i")

    @property
    def k_quads(self) -> int:
        """Weights of one output in fours, an even number."""
        return -(-self.in_n // 8) * 2

    def pack(self) -> bytes:
        """Return the C structure behind its offsets."""
        return self._FORMAT.pack(
            self.rows, self.in_n, self.out_n, self.k_quads,
            self.per_channel, self.out_zero, self.act_min, self.act_max, self.rounding, 0, *self.scale,
        )  # fmt: skip
