# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite Micro behind EdgeFleet's terms: the tflite-micro wheel, which is the oracle for microcontrollers.

It runs in a child process: TFLM trusts the file that it is given, and tells on standard error why it refuses one.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

from edgefleet.contracts.errors import UnsupportedModelError, missing_extra
from edgefleet.runtimes.child_interpreter import ChildInterpreter, RefusedByRuntime

#: Room for every model that a microcontroller could hold; pages that are never touched cost nothing.
ARENA_BYTES = 64 << 20
_NODE = re.compile(r"Node (?P<operator>\w+) \(number (?P<number>\d+)\) failed to (?P<step>prepare|invoke)")
_UNKNOWN = re.compile(r"Didn't find op for builtin opcode '(?P<operator>\w+)'")
_ARENA = re.compile(r"Failed to (?:resize buffer|allocate)|Requested: \d+, available")
_SOURCE = re.compile(r"^tensorflow/lite/\S+?\.(?:cc|h)(?::\d+)?\s*")


class TflmInterpreter(ChildInterpreter):
    """One loaded model on TFLM's reference kernels; not for use from two threads at once.

    Raises:
        UnsupportedModelError: TFLM refuses the model; the message names the operator and the reason.
        ModelFailedError: the model ended the interpreter, or loading it did not end within ``deadline_s`` seconds.
        MissingExtraError: the wheel is not installed.
    """

    def __init__(self, model: bytes, *, arena_bytes: int = ARENA_BYTES, deadline_s: float = 60.0) -> None:
        runtime_version()
        self._arena_bytes = arena_bytes
        command = [sys.executable, "-P", "-m", "edgefleet.runtimes.tflm_child"]
        super().__init__(command, model, {"arena_bytes": arena_bytes}, runtime="TFLM", deadline_s=deadline_s)

    def _refusal(self, error: RefusedByRuntime) -> UnsupportedModelError:
        return _refusal(error, self._arena_bytes)

    def _reason(self, error: RefusedByRuntime) -> str:
        node = _NODE.search(error.written)
        return super()._reason(error) if node is None else _failed(node, error.written)


def runtime_version() -> str:
    """Return the installed wheel's release, a date: TFLM itself has no releases.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    try:
        return version("tflite-micro")
    except PackageNotFoundError as error:
        raise missing_extra("converter", "checking a model on TensorFlow Lite Micro") from error


def _refusal(error: RefusedByRuntime, arena_bytes: int) -> UnsupportedModelError:
    unknown, node = _UNKNOWN.search(error.written), _NODE.search(error.written)
    if unknown:
        return UnsupportedModelError(
            f"TFLM cannot load the model: it has no operator {unknown['operator']}",
            hint="train the model without it, or choose a profile whose runtime has the operator",
        )
    if _ARENA.search(error.written) or (not node and not error.written.strip() and "allocate" in error.raised):
        return UnsupportedModelError(
            f"TFLM cannot load the model: it does not fit an arena of {arena_bytes} bytes",
            hint="give the model a larger arena, or make its activations smaller",
        )
    if node:
        return UnsupportedModelError(
            f"TFLM cannot load the model: {_failed(node, error.written)}",
            hint="convert the model in another mode for this board, or choose another profile",
        )
    return UnsupportedModelError(
        f"TFLM cannot load the model: {_reason(error.written) if error.written.strip() else error.raised}",
        hint="the file is damaged, or for another runtime: convert it again for this board",
    )


def _failed(node: re.Match[str], written: str) -> str:
    return f"the operator {node['operator']} (number {node['number']}) fails to {node['step']}: " + _reason(
        written[: node.start()]
    )


def _reason(written: str) -> str:
    """Return the last line that was written, without the name of the source file in front of it."""
    lines = [line for line in written.splitlines() if line.strip()]
    return _SOURCE.sub("", lines[-1]).strip() if lines else "it does not say why"
