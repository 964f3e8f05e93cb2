# SPDX-License-Identifier: Apache-2.0
"""Run a model on samples with a device's own Python: ``infer.py MODEL INPUTS.npz OUTPUTS.npz KERNELS``.

``INPUTS.npz`` has ``x0``, ``x1``, … for the model's inputs, with the samples on the first axis; each sample has the
shape of the input itself. ``OUTPUTS.npz`` gets ``y0``, ``y1``, … in the same way.
"""

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter


def main(model: str, inputs: str, outputs: str, kernels: str) -> None:
    """Run all samples, one inference each."""
    interpreter = LiteRtInterpreter(Path(model).read_bytes(), kernels=cast("Kernels", kernels))
    with np.load(inputs, allow_pickle=False) as given:
        samples = [given[f"x{number}"] for number in range(len(interpreter.inputs))]
    answers = [interpreter.invoke(list(sample)) for sample in zip(*samples, strict=True)]
    stacked: dict[str, Any] = {
        f"y{number}": np.stack(values) for number, values in enumerate(zip(*answers, strict=True))
    }
    np.savez(outputs, **stacked)


if __name__ == "__main__":
    main(*sys.argv[1:])
