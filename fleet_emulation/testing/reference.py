# SPDX-License-Identifier: Apache-2.0
"""What the reference interpreter answers on this machine: what boards are compared with."""

from pathlib import Path

import numpy as np

from edgefleet.contracts.errors import InputError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.manifest import Numerics, RuntimeKind
from edgefleet.runtimes.interpreter import Array
from edgefleet.runtimes.oracle import open_oracle

_KINDS: dict[Numerics, RuntimeKind] = {"tflm/1": "tflm", "litert/1": "litert"}


def answers(model: Path | str | bytes, inputs: Array, numerics: Numerics = "tflm/1") -> Array:
    """Return the reference kernels' raw output to a batch; both have the samples along their first axis.

    Each sample begins with fresh state variables.

    Raises:
        InputError: the model has several inputs or outputs, or the batch does not fit.
        MissingExtraError: the interpreter is not installed.
        EdgeFleetError: the interpreter refuses the model.
    """
    data = model if isinstance(model, bytes) else read_file(Path(model), "the model")
    interpreter = open_oracle(data, kind=_KINDS[numerics], kernels="reference")
    if len(interpreter.inputs) != 1 or len(interpreter.outputs) != 1:
        raise InputError(
            f"the model has {len(interpreter.inputs)} inputs and {len(interpreter.outputs)} outputs",
            hint="ask the interpreter itself: edgefleet.runtimes.oracle.open_oracle",
        )
    spec = interpreter.inputs[0]
    check_batch(inputs, spec.dtype, spec.shape)
    found = []
    for sample in inputs:
        interpreter.reset_state()
        found.append(interpreter.invoke([np.ascontiguousarray(sample).reshape(spec.shape)])[0])
    return np.concatenate(found)


def check_batch(inputs: Array, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse a batch that is not of a model's input: its first axis counts samples, the others are the input's own.

    Raises:
        InputError: it does not fit.
    """
    elements = int(np.prod(shape))
    fits = inputs.ndim > 0 and len(inputs) > 0 and inputs[0].size == elements
    if not fits or str(inputs.dtype) != dtype:
        own = "×".join(map(str, shape))
        raise InputError(
            f"the inputs are {inputs.dtype} of shape {inputs.shape}, and the model takes samples of {dtype} {own}",
            hint="give a batch whose first axis counts samples, in the model's own type",
        )
