# SPDX-License-Identifier: Apache-2.0
"""What the two reference runtimes answer, in this process: models are ours, and a process each would take hours."""

import os
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import Numerics

Array = npt.NDArray[Any]
NUMERICS: tuple[Numerics, ...] = ("tflm/1", "litert/1")
_ARENA_BYTES = 1 << 20


class RefusedError(Exception):
    """The runtime does not take the model, so that it says nothing about it."""


def answers(
    model: bytes, numerics: Numerics, steps: Sequence[Sequence[Array]], *, outputs: int = 1
) -> list[list[Array]]:
    """Return the outputs of a model for each step, in the order of the model's own outputs.

    Raises:
        RefusedError: the runtime refuses the model.
    """
    return _tflm(model, steps, outputs) if numerics == "tflm/1" else _litert(model, steps)


@cache
def _module(name: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return import_module(name)


def _tflm(model: bytes, steps: Sequence[Sequence[Array]], outputs: int) -> list[list[Array]]:
    runtime = _module("tflite_micro.python.tflite_micro.runtime")
    try:
        interpreter = runtime.Interpreter.from_bytes(model, arena_size=_ARENA_BYTES)
        return [_tflm_step(interpreter, step, outputs) for step in steps]
    except (RuntimeError, ValueError) as error:  # some kernels refuse a type only when they run
        raise RefusedError(str(error)) from error


def _tflm_step(interpreter: Any, step: Sequence[Array], outputs: int) -> list[Array]:
    for place, array in enumerate(step):
        interpreter.set_input(array, place)
    interpreter.invoke()
    return [np.array(interpreter.get_output(place)) for place in range(outputs)]


def _litert(model: bytes, steps: Sequence[Sequence[Array]]) -> list[list[Array]]:
    module = _module("ai_edge_litert.interpreter")
    try:
        interpreter = module.Interpreter(
            model_content=model, experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF
        )
        interpreter.allocate_tensors()
        return [_litert_step(interpreter, step) for step in steps]
    except (RuntimeError, ValueError) as error:
        raise RefusedError(str(error)) from error


def _litert_step(interpreter: Any, step: Sequence[Array]) -> list[Array]:
    for detail, array in zip(interpreter.get_input_details(), step, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [cast(Array, interpreter.get_tensor(detail["index"])) for detail in interpreter.get_output_details()]
