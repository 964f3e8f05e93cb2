# SPDX-License-Identifier: Apache-2.0
"""tflite-runtime 2.14 behind EdgeFleet's terms: a child in an environment of its own, as it needs numpy below 2.

The environment is the Python that EDGEFLEET_TFLITE_RUNTIME_PYTHON names, or else ``.venv-tflite-runtime`` beside the
environment that runs this; ``scripts/make-tflite-runtime-environment`` makes it.
"""

import os
import sys
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError, UnsupportedModelError
from edgefleet.runtimes import tflite_runtime_child
from edgefleet.runtimes.child_interpreter import ChildInterpreter, RefusedByRuntime
from edgefleet.runtimes.litert import Kernels

#: The release that the environment has: the only one in the package index, and what boards with a fixed image run.
VERSION = "2.14.0"
PYTHON_VARIABLE = "EDGEFLEET_TFLITE_RUNTIME_PYTHON"
ENVIRONMENT = ".venv-tflite-runtime"
_MAKE_HINT = f"run: scripts/make-tflite-runtime-environment (or name a Python that has it in {PYTHON_VARIABLE})"
#: What the far end raises where the library is missing, or its numpy too new.
_ENVIRONMENT_FAULTS = frozenset({"ImportError", "ModuleNotFoundError", "SystemError", "AttributeError"})


class TfliteRuntimeInterpreter(ChildInterpreter):
    """One loaded model on tflite-runtime 2.14; not for use from two threads at once.

    Raises:
        UnsupportedModelError: tflite-runtime refuses the model; the message names the operator where it does.
        ModelFailedError: the model ended the interpreter, or loading it did not end within ``deadline_s`` seconds.
        MissingExtraError: there is no environment with tflite-runtime.
    """

    def __init__(self, model: bytes, *, kernels: Kernels = "production", deadline_s: float = 60.0) -> None:
        command = [str(find_python()), "-I", tflite_runtime_child.__file__]
        try:
            super().__init__(command, model, {"kernels": kernels}, runtime="tflite-runtime", deadline_s=deadline_s)
        except OSError as error:
            raise MissingExtraError(
                f"the Python that stands for tflite-runtime {VERSION} cannot be started: {error}", hint=_MAKE_HINT
            ) from error

    def _refusal(self, error: RefusedByRuntime) -> EdgeFleetError:
        if error.kind in _ENVIRONMENT_FAULTS:
            return MissingExtraError(
                f"the Python that stands for tflite-runtime {VERSION} cannot run it: {error.raised.splitlines()[0]}",
                hint=_MAKE_HINT,
            )
        return UnsupportedModelError(
            f"tflite-runtime {VERSION} cannot load the model: {' '.join(error.raised.split())}",
            hint="convert the model in another mode for this board, or choose a profile with a newer runtime",
        )


def find_python() -> Path:
    """Return the Python that has tflite-runtime.

    Raises:
        MissingExtraError: there is none.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    python = Path(named) if named else Path(sys.prefix).parent / ENVIRONMENT / "bin" / "python"
    if python.is_file():
        return python
    where = f"{PYTHON_VARIABLE} names {named}, which is no file" if named else f"there is no {python}"
    raise MissingExtraError(
        f"checking a model on tflite-runtime {VERSION} needs an environment of its own, and {where}",
        hint=_MAKE_HINT,
    )
