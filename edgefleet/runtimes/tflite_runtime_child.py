# SPDX-License-Identifier: Apache-2.0
"""The far end of an interpreter that runs in a process of its own; as a program: tflite-runtime's.

It runs under the Python that has the runtime, so that it needs the standard library and numpy only. Frames come on
standard input and go to standard output: two little-endian 32-bit lengths, a JSON document, then raw bytes. The first
frame carries a model; each frame is answered by one. What the runtime writes by itself goes to standard error.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Document = dict[str, Any]
LENGTHS = struct.Struct("<II")


class Engine(Protocol):
    """A loaded model; ``inputs`` and ``outputs`` are descriptions with name, shape, dtype, scale and zero_point."""

    inputs: list[Document]
    outputs: list[Document]

    def invoke(self, arrays: list[Array]) -> list[Array]:
        """Run one inference."""

    def reset(self) -> None:
        """Set state variables back to their start."""

    def allocations(self) -> None:
        """Write what memory the model takes to standard error, where the runtime can say it."""


class TfliteRuntime:
    """tflite-runtime's interpreter."""

    def __init__(self, model: bytes, options: Document) -> None:
        from importlib import import_module

        library = import_module("tflite_runtime.interpreter")
        resolvers = library.OpResolverType
        resolver = resolvers.BUILTIN_REF if options["kernels"] == "reference" else resolvers.AUTO
        self._interpreter: Any = library.Interpreter(
            model_content=model, num_threads=1, experimental_op_resolver_type=resolver
        )
        self._interpreter.allocate_tensors()
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input_ids = [detail["index"] for detail in inputs]
        self._output_ids = [detail["index"] for detail in outputs]
        self.inputs = [_described(detail) for detail in inputs]
        self.outputs = [_described(detail) for detail in outputs]

    def invoke(self, arrays: list[Array]) -> list[Array]:
        """Run one inference."""
        for number, array in zip(self._input_ids, arrays, strict=True):
            self._interpreter.set_tensor(number, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(number) for number in self._output_ids]

    def reset(self) -> None:
        """Set state variables back to their start."""
        self._interpreter.reset_all_variables()

    def allocations(self) -> None:
        """Say nothing: this runtime takes memory as it needs it."""


def serve(load: Callable[[bytes, Document], Engine]) -> None:
    """Answer frames until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a runtime prints must not end up between frames
    engine: Engine | None = None
    while (frame := read_frame(0)) is not None:
        request, payload = frame
        try:
            if engine is None:
                engine = load(payload, request)
                document: Document = {"inputs": engine.inputs, "outputs": engine.outputs}
                arrays: list[Array] = []
            else:
                document, arrays = _answer(engine, request, payload)
        except Exception as error:  # noqa: BLE001  # whatever the runtime raises is the parent's to tell
            kind = type(error).__name__
            document, arrays = {"kind": kind, "error": str(error).strip() or kind}, []
        write_frame(answers, {**document, "arrays": describe(arrays)}, *(array.tobytes() for array in arrays))


def read_frame(source: int) -> tuple[Document, bytes] | None:
    """Read one frame from a file descriptor; None where it ended."""
    lengths = _read_exactly(source, LENGTHS.size)
    if lengths is None:
        return None
    document_bytes, payload_bytes = LENGTHS.unpack(lengths)
    document, payload = _read_exactly(source, document_bytes), _read_exactly(source, payload_bytes)
    return None if document is None or payload is None else (json.loads(document), payload)


def write_frame(target: int, document: Document, *parts: bytes) -> None:
    """Write one frame to a file descriptor."""
    view = memoryview(frame_of(document, *parts))
    while view:
        view = view[os.write(target, view) :]


def frame_of(document: Document, *parts: bytes) -> bytes:
    """Return one frame as bytes."""
    text = json.dumps(document).encode()
    return b"".join([LENGTHS.pack(len(text), sum(map(len, parts))), text, *parts])


def describe(arrays: list[Array]) -> list[list[Any]]:
    """Return type and shape of each array."""
    return [[array.dtype.str, list(array.shape)] for array in arrays]


def arrays_of(described: list[list[Any]], payload: bytes) -> list[Array]:
    """Return the arrays that lie in ``payload``, one behind the other."""
    found, start = [], 0
    for dtype, shape in described:
        count = int(np.prod(shape, dtype=np.int64))
        found.append(np.frombuffer(payload, np.dtype(dtype), count, start).reshape(shape).copy())
        start += found[-1].nbytes
    return found


def _answer(engine: Engine, request: Document, payload: bytes) -> tuple[Document, list[Array]]:
    if request["do"] == "invoke":
        return {}, engine.invoke(arrays_of(request["arrays"], payload))
    if request["do"] == "reset":
        engine.reset()
    if request["do"] == "allocations":
        engine.allocations()
    return {}, []


def _described(detail: Document) -> Document:
    scale, zero_point = detail["quantization"]
    return {
        "name": str(detail["name"]),
        "shape": [int(size) for size in detail["shape"]],
        "dtype": np.dtype(detail["dtype"]).name,
        "scale": float(scale) if scale else None,
        "zero_point": int(zero_point) if scale else None,
    }


def _read_exactly(source: int, count: int) -> bytes | None:
    parts = []
    while count:
        part = os.read(source, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    serve(TfliteRuntime)
