# SPDX-License-Identifier: Apache-2.0
"""Lowerings of the operators that multiply weights, by the names of TFLite's schema."""

from collections.abc import Mapping

from converter.c.core import conv2d, depthwise, fully_connected
from converter.c.core.weightless import Lowering

WITH_WEIGHTS: Mapping[str, Lowering] = {
    "CONV_2D": conv2d.lower,
    "DEPTHWISE_CONV_2D": depthwise.lower,
    "FULLY_CONNECTED": fully_connected.lower,
}
