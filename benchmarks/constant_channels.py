# SPDX-License-Identifier: Apache-2.0
"""What it saves to take out the channels that never change: the blob of each shared int8 model, with and without.

    python -m benchmarks.constant_channels

The baseline, in the same call, is the same model with all its channels. That the answers stay is shown elsewhere: by
benchmarks.generated_c on boards, and by tests.
"""

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.record import SHARED, skip, write
from converter.c.core.blob import Ends, write_blob
from converter.c.core.constant_channels import without_constant_channels
from converter.c.core.lowering import lower_graph
from converter.c.core.memory_plan import plan_memory
from converter.c.core.program import Graph, Target
from converter.c.reading import read_graph

_TARGET = Target("tflm/1", "dsp")


def main() -> None:
    models = sorted((SHARED / "models").glob("*_int8.tflite"))
    if not models:
        skip(f"the shared models are not in {SHARED / 'models'}")
    rows = [_row(path) for path in models]
    for row in rows:
        print(
            f"{row['model']:16} {row['constant_channels']:>5,} constant channels in {row['tensors']:>2} tensors: blob "
            f"{row['blob_bytes']:>7,} bytes ({row['of_whole_blob']:.3f} of {row['whole_blob_bytes']:>7,})"
        )
    write("constant_channels", {"numerics": _TARGET.numerics, "kernels": _TARGET.kernel_set, "rows": rows})


def _row(path: Path) -> dict[str, Any]:
    model = path.read_bytes()
    graph = read_graph(model)
    slimmed = without_constant_channels(graph, _TARGET)
    blob_bytes, whole_bytes = _blob_bytes(slimmed.graph, model), _blob_bytes(graph, model)
    return {
        "model": path.stem,
        "constant_channels": sum(len(narrowed.constants) for narrowed in slimmed.narrowed.values()),
        "tensors": sum(bool(narrowed.constants) for narrowed in slimmed.narrowed.values()),
        "blob_bytes": blob_bytes,
        "whole_blob_bytes": whole_bytes,
        "of_whole_blob": round(blob_bytes / whole_bytes, 4),
    }


def _blob_bytes(graph: Graph, model: bytes) -> int:
    lowered = lower_graph(graph, _TARGET)
    inputs, outputs = ([graph.values[number] for number in numbers] for numbers in (graph.inputs, graph.outputs))
    blob = write_blob(lowered, plan_memory(lowered), Ends(inputs, outputs), _TARGET, hashlib.sha256(model).digest())
    return len(blob.data)


if __name__ == "__main__":
    main()
