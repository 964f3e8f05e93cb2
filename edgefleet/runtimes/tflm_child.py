# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite Micro's interpreter in a process of its own: it checks no file, and a wrong one ends the process."""

from importlib import import_module
from typing import Any

import numpy as np

from edgefleet.runtimes.tflite_runtime_child import Array, Document, serve


class Tflm:
    """The tflite-micro wheel's interpreter, which records what it allocates."""

    def __init__(self, model: bytes, options: Document) -> None:
        runtime = import_module("tflite_micro.python.tflite_micro.runtime")
        self._interpreter: Any = runtime.Interpreter.from_bytes(model, arena_size=options["arena_bytes"])
        graph = runtime.convert_bytearray_to_object(model).subgraphs[0]
        names = [tensor.name or b"" for tensor in graph.tensors]
        self.inputs = [
            _described(self._interpreter.get_input_details(place), names[number])
            for place, number in enumerate(graph.inputs)
        ]
        self.outputs = [
            _described(self._interpreter.get_output_details(place), names[number])
            for place, number in enumerate(graph.outputs)
        ]

    def invoke(self, arrays: list[Array]) -> list[Array]:
        """Run one inference."""
        for place, array in enumerate(arrays):
            self._interpreter.set_input(array, place)
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_output(place)) for place in range(len(self.outputs))]

    def reset(self) -> None:
        """Set state variables back to their start."""
        self._interpreter.reset()

    def allocations(self) -> None:
        """Write the arena's use to standard error, as the recording allocator counted it."""
        self._interpreter.print_allocations()


def _described(detail: Document, name: bytes) -> Document:
    scales = detail["quantization_parameters"]["scales"]
    zero_points = detail["quantization_parameters"]["zero_points"]
    return {
        "name": name.decode("utf-8", "replace"),
        "shape": [int(size) for size in detail["shape"]],
        "dtype": np.dtype(detail["dtype"]).name,
        "scale": float(scales[0]) if len(scales) else None,
        "zero_point": int(zero_points[0]) if len(scales) else None,
    }


if __name__ == "__main__":
    serve(Tflm)
