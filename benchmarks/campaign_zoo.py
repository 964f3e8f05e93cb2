# SPDX-License-Identifier: Apache-2.0
"""Other people's models through the whole converter: each cell is right, or refused before a bundle exists.

    python -m benchmarks.campaign_zoo [--tensorflow-python PATH] [--folder FOLDER] [--models NAME …] [--print-only]

TensorFlow makes a zoo of small models (benchmarks/tensorflow_zoo.py), in float and quantized by its own converter. Each
goes through ``converter.pipeline.convert`` for a board of each runtime, floats in every precision. What comes out is
looked at once more: its answers beside those of LiteRT's reference kernels and of the float model, its arena beside
TFLM's own count, its parity vectors beside a new run. What is refused is run all the same, where it can be made.

right      a bundle, whose answers are the reference kernels'
refused    a sentence, no bundle; ``anyway`` tells what the runtime would have made of the model
WRONG      a bundle whose answers are not, or whose arena, plan or parity vectors are wrong: a fault
CRASH      something else than an error of EdgeFleet's: a fault
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.record import ROOT, skip, write
from converter import pipeline
from converter.adapters.flatbuffers.offline_plan import carried_plan, plan_for, variable_tensors, without_plan
from converter.adapters.flatbuffers.reading import read_facts, read_model
from converter.adapters.samples.sets import model_inputs, open_samples
from converter.core.board.cost import Interpreter, arena_memory
from converter.core.recipe import Recipe
from converter.core.request import ConversionRequest
from converter.core.scoring import default_metric
from converter.quantization import quantize
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import Budgets, Precision, Preprocessing, RuntimeKind
from edgefleet.contracts.profile import Profile, RuntimeFacts
from edgefleet.runtimes import probe
from edgefleet.runtimes.litert import Kernels, LiteRtInterpreter
from edgefleet.runtimes.oracle import compare, open_oracle
from edgefleet.runtimes.parity import read_vectors
from edgefleet.runtimes.tensors import dequantize
from edgefleet.runtimes.tflm_arena import measure_arena
from firmware_profiles import load_profile

Array = npt.NDArray[Any]
PYTHON_VARIABLE = "EDGEFLEET_TENSORFLOW_PYTHON"
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "dynamic-int8", "int8", "int16x8", "int4")
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_FAULTS = ("WRONG", "CRASH")
_MODEL_LIMIT_S = 900
_ANYWAY_SAMPLES = 6
#: Rounding of one runtime and another's; what is beyond is looked at by a person.
_SOUND_DIFFERENCE = 0.15


class Case(NamedTuple):
    """One model for one board; ``precision`` is None where the model is taken as it is."""

    model: Path
    samples: Path
    kind: RuntimeKind
    precision: Precision | None


def main() -> int:
    options = _options()
    if options.one is not None:
        for cell in _cells(options.one):
            print(json.dumps(cell), flush=True)
        return 0
    with tempfile.TemporaryDirectory(prefix="edgefleet-zoo-") as made:
        folder = options.folder or _made(Path(made), options)
        names = options.models or sorted(path.stem for path in folder.glob("*.npz"))
        cells = [cell for name in names for cell in _of_one_model(folder / f"{name}.npz")]
    faults = [cell for cell in cells if cell["verdict"] in _FAULTS]
    summary = {
        "models": len(names),
        "cells": len(cells),
        "verdicts": dict(sorted(Counter(cell["verdict"] for cell in cells).items())),
        "refused_though_right": [cell for cell in cells if cell.get("anyway") == "right"],
        "faults": faults,
    }
    if options.print_only:
        print(json.dumps(summary, indent=2))
    else:
        write("campaign_zoo", {**summary, "all": cells})
    return 1 if faults else 0


def _made(folder: Path, options: argparse.Namespace) -> Path:
    if options.tensorflow_python is None:
        skip(f"name a Python that has TensorFlow: --tensorflow-python PATH or {PYTHON_VARIABLE}")
    command = [options.tensorflow_python, "-m", "benchmarks.tensorflow_zoo", folder, *options.models]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, check=True)
    return folder


def _of_one_model(samples: Path) -> list[dict[str, Any]]:
    """Try one model in a process of its own: it may end it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.campaign_zoo", "--one", samples],
        capture_output=True, text=True, check=False, timeout=_MODEL_LIMIT_S,
    )  # fmt: skip
    cells = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        cells.append({"model": samples.stem, "verdict": "CRASH", "said": done.stderr[-500:]})
    for cell in cells:
        print(" ".join(str(value) for value in cell.values()), flush=True)
    return cells


def _cells(samples: Path) -> Iterator[dict[str, Any]]:
    _probe_by_forking()
    for case in _cases(samples):
        precision = case.precision or "as it is"
        try:
            found = _tried(case)
        except Exception as error:  # noqa: BLE001  # this is what is looked for
            found = {"verdict": "CRASH", "said": f"{type(error).__name__}: {error}"[:300]}
        yield {"model": case.model.stem, "runtime": case.kind, "precision": precision, **found}


def _cases(samples: Path) -> Iterator[Case]:
    for kind in get_args(RuntimeKind):
        for precision in PRECISIONS:
            yield Case(samples.with_suffix(".tflite"), samples, kind, precision)
        for model in sorted(samples.parent.glob(f"{samples.stem}.*.tflite")):
            yield Case(model, samples, kind, None)


def _tried(case: Case) -> dict[str, Any]:
    request = _request(case)
    try:
        made = pipeline.convert(request, now=_NOW)
    except EdgeFleetError as error:
        return {"verdict": "refused", **_anyway(case, request), "said": error.message, "hint": error.hint}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.bundle"
        path.write_bytes(made.bundle)
        bundle = open_bundle(path)
        model = bundle.read(bundle.manifest.model)
        told = _answers(case, request, model)
        wrong = [what for what, is_wrong in told.pop("faults").items() if is_wrong]
        if case.kind == "tflm":
            arena, faults = _arena(model)
            told |= arena
            wrong += faults + _parity_faults(bundle, model)
    return {"verdict": "WRONG" if wrong else "right", **told, "said": "; ".join(wrong)}


def _answers(case: Case, request: ConversionRequest, model: bytes) -> dict[str, Any]:
    """Compare the model's answers on the board's runtime with the reference kernels', and with the float model's."""
    board = open_oracle(model, kind=case.kind)
    inputs = _inputs(case, request, board)
    difference = _difference(case.kind, board, model, inputs)
    source = LiteRtInterpreter(case.samples.with_suffix(".tflite").read_bytes(), kernels="reference")
    alike = _correlation(board, inputs, source, _inputs(case, request, source))
    return {
        "difference": round(difference, 4),
        "to_float": round(alike, 4),
        "faults": {"answers are not the reference kernels'": difference > _SOUND_DIFFERENCE},
    }


def _difference(kind: RuntimeKind, board: Any, model: bytes, inputs: Sequence[Any]) -> float:
    """Return how far the answers are from LiteRT's; on TFLM from the nearer of its two kernel sets.

    The reference kernels compute sums of integers wrongly, and prove no bundle for TFLM.
    """
    opinions: tuple[Kernels, ...] = ("reference", "production") if kind == "tflm" else ("reference",)
    return min(compare(board, LiteRtInterpreter(model, kernels=each), inputs).difference for each in opinions)


def _inputs(case: Case, request: ConversionRequest, interpreter: Any) -> list[list[Array]]:
    samples = open_samples(case.samples, [spec.name for spec in interpreter.inputs], ())
    return list(model_inputs(samples, range(len(samples)), request.preprocessing, interpreter.inputs))


def _correlation(board: Any, inputs: Sequence[Any], source: Any, float_inputs: Sequence[Any]) -> float:
    """Return the correlation of all answers with the float model's."""
    mine, theirs = (
        np.concatenate([_flat(interpreter, sample) for sample in samples])
        for interpreter, samples in ((board, inputs), (source, float_inputs))
    )
    if mine.size != theirs.size or not mine.std() or not theirs.std():
        return float("nan")
    return float(np.corrcoef(mine, theirs)[0, 1])


def _flat(interpreter: Any, sample: Sequence[Array]) -> Array:
    outputs = interpreter.invoke(sample)
    return np.concatenate([
        dequantize(values, spec).astype(np.float64).reshape(-1)
        for values, spec in zip(outputs, interpreter.outputs, strict=True)
    ])  # fmt: skip


def _arena(model: bytes) -> tuple[dict[str, Any], list[str]]:
    """Compare the plans and the prediction with TFLM's own count."""
    bare, facts, variables = without_plan(model), read_facts(model), variable_tensors(read_model(model))
    (own, best), carried = plan_for(bare), carried_plan(model)
    measured, at_first = measure_arena(model), measure_arena(bare)
    wheel = Interpreter(pointer_bytes=8, wheel=True)
    predicted = arena_memory(facts, carried, wheel, variables=variables)
    figures = {
        "head": at_first.head_bytes, "greedy": own.size_bytes, "best": best.size_bytes, "bundled": measured.head_bytes,
        "total": measured.total_bytes, "predicted": predicted.total_bytes,
    }  # fmt: skip
    faults = {
        "greedy is not TFLM's": own.size_bytes != at_first.head_bytes,
        "the bundle's plan is not carried out": carried.size_bytes != measured.head_bytes,
        "the best plan is larger": best.size_bytes > own.size_bytes,
        "the arena is predicted too small": predicted.total_bytes < measured.total_bytes,
        "the arena is predicted too large": predicted.total_bytes > measured.total_bytes * 1.01,
    }
    return figures, [what for what, wrong in faults.items() if wrong]


def _parity_faults(bundle: Bundle, model: bytes) -> list[str]:
    inputs, outputs = read_vectors(bundle)
    interpreter = open_oracle(model, kind="tflm")
    for number in range(bundle.manifest.parity.samples):
        got = interpreter.invoke([tensor[number] for tensor in inputs])
        if any(a.tobytes() != b[number].tobytes() for a, b in zip(got, outputs, strict=True)):
            return ["the parity vectors are not TFLM's"]
    return []


def _anyway(case: Case, request: ConversionRequest) -> dict[str, str]:
    """Return what the runtime makes of the model that was refused, where it can be made."""
    try:
        model = case.model.read_bytes()
        if request.recipe is not None:
            interpreter = LiteRtInterpreter(model, kernels="reference")
            samples = open_samples(case.samples, [spec.name for spec in interpreter.inputs], ())
            model = quantize(model, request.recipe, samples, request.preprocessing).data
        board = open_oracle(model, kind=case.kind)
        difference = _difference(case.kind, board, model, _inputs(case, request, board)[:_ANYWAY_SAMPLES])
    except EdgeFleetError as error:
        return {"anyway": "refuses itself", "because": error.message}
    return {"anyway": "right" if difference <= _SOUND_DIFFERENCE else f"wrong by {difference:.2f}"}


def _request(case: Case) -> ConversionRequest:
    return ConversionRequest(
        model=case.model, profile=board_of(case.kind), name="zoo", version="1.0.0", task="regression",
        metric=default_metric("regression"), calibration=case.samples, preprocessing=Preprocessing(),
        recipe=None if case.precision is None else Recipe(precision=case.precision, conditioning=("none",)),
    )  # fmt: skip


def board_of(kind: RuntimeKind) -> Profile:
    """Return a board with a runtime that takes every precision and operator, and has room for every model."""
    if kind == "tflm":
        board = msgspec.structs.replace(load_profile("mps2-an386"), operators=(), budgets=Budgets())
    else:
        board = load_profile("linux-x86_64")
    if kind == "tflite-runtime":
        runtime = RuntimeFacts(kind=kind, version="2.14.0", numerics="litert/1")
        board = msgspec.structs.replace(board, runtime=runtime)
    return msgspec.structs.replace(board, precisions=get_args(Precision))


def _probe_by_forking() -> None:
    """Let conversions probe models in a fork instead of a new Python: the same checks, a tenth of the time."""
    original: Callable[..., Any] = probe.probe_model
    for module in list(sys.modules.values()):
        if getattr(module, "probe_model", None) is original:
            module.probe_model = probe.probe_in_fork  # type: ignore[attr-defined]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorflow-python", default=os.environ.get(PYTHON_VARIABLE), metavar="PATH")
    parser.add_argument("--folder", type=Path, help="a zoo that was made before")
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--print-only", action="store_true", help="keep no result")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
