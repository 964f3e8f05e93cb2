# SPDX-License-Identifier: Apache-2.0
"""One way to the interpreter that says what a board's runtime answers, whichever runtime that is."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import ModelFailedError, UnsupportedModelError
from edgefleet.contracts.manifest import DetectionRole, RuntimeKind, Task, TensorSpec, Tool
from edgefleet.runtimes import tflite_runtime, tflm
from edgefleet.runtimes.answers import silenced
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter
from edgefleet.runtimes.parity import top1_differs
from edgefleet.runtimes.tensors import dequantize

Array = npt.NDArray[Any]
#: Differences of sound runtimes were seen up to 0.14 of the answers' spread, those of broken ones from 0.93.
_LARGEST_DIFFERENCE = 0.3
#: One answer in a hundred, or a single one, may be of another class.
_CHANGED_SHARE = 0.01


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


class Agreement(NamedTuple):
    """How a runtime's real-valued answers compare with the reference's to the same inputs.

    ``top1_changed`` counts first outputs with another top-1 class although the reference's leads by half of the range
    of all its answers. ``difference`` is the root of the mean square difference of all outputs, divided by the standard
    deviation of the reference's; infinite where an answer is not finite.
    """

    samples: int
    top1_changed: int
    difference: float


def compare(
    oracle: Interpreter,
    reference: Interpreter,
    inputs: Iterable[Sequence[Array]],
    roles: Sequence[DetectionRole] = (),
) -> Agreement:
    """Run both on each of the inputs, which are tensors as the model takes them.

    Of a detector whose outputs have ``roles``, only the rows that its count tells are compared.

    Raises:
        ModelFailedError: an input does not fit, there is none, or an interpreter failed.
    """
    got, wanted = [], []
    for sample in inputs:
        got.append(_real(silenced(oracle.invoke(sample), oracle.outputs, roles), oracle.outputs))
        wanted.append(_real(silenced(reference.invoke(sample), reference.outputs, roles), reference.outputs))
    if not got:
        raise ModelFailedError("there is no sample to compare two runtimes on", hint="give at least one")
    mine, theirs = (np.concatenate([part for answer in answers for part in answer]) for answers in (got, wanted))
    quarter = float(max(answer[0].max() for answer in wanted) - min(answer[0].min() for answer in wanted)) / 4
    changed = sum(top1_differs(a[0], b[0], quarter) for a, b in zip(got, wanted, strict=True))
    return Agreement(len(got), changed, _difference(mine, theirs))


def check_runs_right(
    model: bytes,
    *,
    kind: RuntimeKind,
    task: Task,
    inputs: Sequence[Sequence[Array]],
    roles: Sequence[DetectionRole] = (),
    kernels: Kernels = "production",
) -> Agreement:
    """Run a model on a board's runtime and on LiteRT's reference kernels, which no runtime may leave far behind.

    It sees what the converter's rules for runtimes have none for. ``inputs`` are tensors as the model takes them. A
    microcontroller's bundle is proved by TFLM's own answers, so there LiteRT's production kernels are asked as well:
    its reference kernels compute one operator or another wrongly (sums of integers).

    Raises:
        ModelFailedError: the answers differ by more than runtimes do, or an interpreter failed.
        UnsupportedModelError: the runtime refuses the model.
        MissingExtraError: the runtime is not installed.
    """
    oracle = open_oracle(model, kind=kind, kernels=kernels)
    found = compare(oracle, LiteRtInterpreter(model, kernels="reference"), inputs, roles)
    if _alike(found, task):
        return found
    if kind == "tflm":
        with suppress(UnsupportedModelError, ModelFailedError):  # then there is no second opinion
            second = compare(oracle, LiteRtInterpreter(model, kernels="production"), inputs, roles)
            if _alike(second, task):
                return second
    raise ModelFailedError(
        f"{kind} does not compute the model right: {found.top1_changed} of {found.samples} answers change their class, "
        f"and outputs lie {found.difference:.2f} of their spread from the reference kernels' "
        f"(allowed {_LARGEST_DIFFERENCE:g})",
        hint="convert the model in another mode for this board, or choose another profile; and please report it",
    )


def _alike(found: Agreement, task: Task) -> bool:
    changed = task == "classification" and found.top1_changed > max(1, int(found.samples * _CHANGED_SHARE))
    return not changed and found.difference <= _LARGEST_DIFFERENCE


def _real(outputs: Sequence[Array], specs: Sequence[TensorSpec]) -> list[npt.NDArray[np.float64]]:
    return [
        dequantize(output, spec).astype(np.float64).reshape(-1) for output, spec in zip(outputs, specs, strict=True)
    ]


def _difference(got: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        distance, spread = float(np.sqrt(np.mean((got - wanted) ** 2))), float(wanted.std())
    if not np.isfinite(distance) or not np.isfinite(spread):
        return float("inf")
    return 0.0 if distance == 0.0 else distance / spread if spread else float("inf")


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
