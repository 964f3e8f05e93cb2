# SPDX-License-Identifier: Apache-2.0
"""One way to the interpreter that says what a board's runtime answers, whichever runtime that is."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

import numpy.typing as npt

from edgefleet.contracts.manifest import RuntimeKind, TensorSpec, Tool
from edgefleet.runtimes import tflite_runtime, tflm
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter

Array = npt.NDArray[Any]


class Interpreter(Protocol):
    """One loaded model, on whatever runtime; not for use from two threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it answers with."""

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference; arrays have the shapes and dtypes of ``self.inputs`` and come back as ``self.outputs``.

        Raises:
            ModelFailedError: an input does not fit, or the interpreter failed.
        """

    def reset_state(self) -> None:
        """Set the model's state variables back to their start."""


def open_oracle(model: bytes, *, kind: RuntimeKind, kernels: Kernels = "production") -> Interpreter:
    """Load a model into the runtime of a board of that kind; TFLM's wheel has reference kernels only.

    LiteRT runs in this process: probe a model from outside first. The others run in a child of their own.

    Raises:
        UnsupportedModelError: the runtime refuses the model.
        ModelFailedError: the model killed the interpreter, or loading it did not end.
        MissingExtraError: the runtime is not installed.
    """
    if kind == "tflm":
        return tflm.TflmInterpreter(model)
    if kind == "tflite-runtime":
        return tflite_runtime.TfliteRuntimeInterpreter(model, kernels=kernels)
    return LiteRtInterpreter(model, kernels=kernels)


def oracle_tool(kind: RuntimeKind) -> Tool:
    """Return the package that stands for a runtime here, for a bundle's lineage.

    Raises:
        MissingExtraError: the runtime is not installed.
    """
    if kind == "tflm":
        return Tool(name="tflite-micro", version=tflm.runtime_version())
    if kind == "tflite-runtime":
        tflite_runtime.find_python()
        return Tool(name="tflite-runtime", version=tflite_runtime.VERSION)
    return Tool(name="ai-edge-litert", version=version("ai-edge-litert"))
