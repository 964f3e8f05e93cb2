# SPDX-License-Identifier: Apache-2.0
"""The kernel variants that there are, and the files of firmware/kernels that each needs."""

from collections.abc import Iterable

from edgefleet.contracts.errors import UnsupportedModelError

_PORTABLE = {
    "average_pool": "pool", "max_pool": "pool", "mean": "mean", "add": "binary", "sub": "binary", "mul": "binary",
    "table": "table", "softmax": "softmax", "quantize": "float_ends", "dequantize": "float_ends", "move": "moves",
    "fill": "moves", "constant": "moves", "resize_nearest": "resize_nearest", "conv2d": "conv2d",
    "depthwise": "depthwise", "fully_connected": "fully_connected",
}  # fmt: skip
_DSP = {
    "conv2d": ("conv2d.c", "conv2d_blocks.S"),
    "depthwise": ("depthwise.c", "depthwise_3x3.c", "depthwise_3x3_planes.S"),
    "fully_connected": ("fully_connected.c", "fully_connected_sums.S"),
    "average_pool": ("pool.c",),
    "max_pool": ("pool.c",),
    "mean": ("mean.c",),
    "add": ("add_flat.c",),
}
_HELIUM = {
    "conv2d": ("conv2d.c",),
    "depthwise": ("depthwise.c", "depthwise_3x3.c", "depthwise_3x3_rows.S"),
    "fully_connected": ("fully_connected.c",),
    "average_pool": ("pool.c",),
    "max_pool": ("pool.c",),
    "mean": ("pool.c",),
    "add": ("add_flat.c",),
}
#: The five functions; and what only an updatable program needs: the linker leaves the two others out of a static one.
RUNTIME_SOURCES = ("runtime/model.c", "runtime/blob.c")
#: What applications may call besides: the linker leaves out what they do not.
OPTIONAL_SOURCES = ("runtime/self_test.c", "runtime/layer_outputs.c")


def kernel_sources(variants: Iterable[str]) -> tuple[str, ...]:
    """Return the files of firmware/kernels that define these variants, sorted.

    Raises:
        UnsupportedModelError: no file defines one.
    """
    return tuple(sorted({source for variant in variants for source in _sources(variant)}))


def function_name(variant: str) -> str:
    """Return the C function of a variant: ``conv2d/dsp/relu`` is ``ef_conv2d_dsp_relu``."""
    return "ef_" + variant.replace("/", "_").replace("-", "_")


def _sources(variant: str) -> tuple[str, ...]:
    operator, kernels, _ = variant.split("/")
    if kernels == "portable" and operator in _PORTABLE:
        return (f"portable/{_PORTABLE[operator]}.c",)
    if kernels == "dsp" and operator in _DSP:
        return tuple(f"dsp/{name}" for name in _DSP[operator])
    if kernels == "helium" and operator in _HELIUM:
        return tuple(f"helium/{name}" for name in _HELIUM[operator])
    raise UnsupportedModelError(
        f"no kernel is called '{variant}'", hint="this is a fault of the generator: report the model"
    )
