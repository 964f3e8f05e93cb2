# SPDX-License-Identifier: Apache-2.0
"""How much memory TFLM takes for a model, as its own recording allocator counts it."""

import re
from typing import NamedTuple

import numpy as np

from edgefleet.contracts.errors import ModelFailedError
from edgefleet.runtimes.tflm import TflmInterpreter

_FIGURE = re.compile(r"\[RecordingMicroAllocator\] Arena allocation (total|head|tail) (\d+) bytes")


class TflmArena(NamedTuple):
    """Bytes of the arena: ``head`` holds activations and scratch, ``tail`` TFLM's own structures.

    The tail is this machine's: its pointers have eight bytes, a microcontroller's have four.
    """

    head_bytes: int
    tail_bytes: int
    total_bytes: int


def measure_arena(model: bytes, *, deadline_s: float = 60.0) -> TflmArena:
    """Load the model into TFLM, run it once on ones (zeros may be divided by), and return what it allocated.

    Raises:
        UnsupportedModelError: TFLM refuses the model.
        ModelFailedError: the model ended the interpreter, did not answer in time, or nothing was recorded.
        MissingExtraError: the wheel is not installed.
    """
    interpreter = TflmInterpreter(model, deadline_s=deadline_s)
    try:
        interpreter.invoke([np.ones(spec.shape, spec.dtype) for spec in interpreter.inputs])
        return recorded_arena(interpreter)
    finally:
        interpreter.close()


def recorded_arena(interpreter: TflmInterpreter) -> TflmArena:
    """Return what TFLM allocated for a model that has run once.

    Raises:
        ModelFailedError: the interpreter was ended, or nothing was recorded.
    """
    figures = dict(_FIGURE.findall(interpreter.allocations()))
    if set(figures) != {"head", "tail", "total"}:
        raise ModelFailedError(
            "TFLM did not say how much memory it allocated",
            hint="install the release of tflite-micro that the extra 'converter' names",
        )
    return TflmArena(int(figures["head"]), int(figures["tail"]), int(figures["total"]))
