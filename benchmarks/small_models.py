# SPDX-License-Identifier: Apache-2.0
"""Small models of seven kinds: int8 against TensorFlow's own, and the budget search against samples it never had.

    python -m benchmarks.small_models --tensorflow-python PATH [--seeds 10] [NAME …]

TensorFlow trains them for seconds (benchmarks/tensorflow_small_models.py) and quantizes them with the calibration
samples that EdgeFleet gets. Printed for each: size, mean |Δ| from the float model and top-1 agreement of both, on 1500
samples that neither saw. Then the search: budgets from strict to loose, which must give ever smaller models; and one
budget over several draws of the 500 evaluation samples, each report compared with 2500 others: how often the reported
interval holds the drop there, and how far the report lies from it on average.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import ROOT, skip, write
from converter.adapters.running.execution import predict
from converter.adapters.samples.sets import ArraySamples, model_inputs
from converter.core.recipe import Recipe
from converter.core.scoring import compare, default_metric
from converter.core.search.budgets import Found, SearchBudgets
from converter.quantization import quantize
from converter.sample_parts import split_samples
from converter.search import SearchRequest, SearchResult, find_recipe
from edgefleet.contracts.manifest import Precision, Preprocessing, Task
from edgefleet.runtimes.litert import LiteRtInterpreter

_TASKS: dict[str, Task] = {
    "plain": "classification",
    "residual": "classification",
    "separable": "classification",
    "keywords": "classification",
    "attentive": "classification",
    "values": "regression",
    "anomalies": "anomaly",
}
_PRECISIONS: tuple[Precision, ...] = ("int8", "int4", "int16x8", "mixed", "dynamic-int8", "float16", "float32")
_COMPARED, _EVALUATED, _UNSEEN = 1500, 500, 2500
_DROPS = (0.005, 0.01, 0.02, 0.05, 0.1)
_REPEATED_DROP = 0.05
_AS_IT_IS = Preprocessing()


class Case(NamedTuple):
    """A model with its samples."""

    task: Task
    float_model: bytes
    tensorflow: bytes
    calibration: ArraySamples
    x: Any
    labels: Any

    def evaluation(self, numbers: Any) -> ArraySamples:
        return ArraySamples("evaluation", [self.x[numbers]], self.labels[numbers])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorflow-python", default=os.environ.get("EDGEFLEET_TENSORFLOW_PYTHON"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    if not options.tensorflow_python:
        skip("name a Python that has TensorFlow: --tensorflow-python PATH or EDGEFLEET_TENSORFLOW_PYTHON")
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        script, digits = ROOT / "benchmarks" / "tensorflow_small_models.py", ROOT / "examples" / "digits" / "digits.npz"
        command = [options.tensorflow_python, script, digits, folder, *options.names]
        subprocess.run(command, check=True, capture_output=True)
        names = [name for name in _TASKS if name in (options.names or _TASKS)]
        cases = {name: _case(Path(folder), name) for name in names}
        models = {name: _figures(name, case, options.seeds) for name, case in cases.items()}
    write(
        "small_models", {"baseline": "TensorFlow's TFLiteConverter, int8, same calibration samples", "models": models}
    )


def _case(folder: Path, name: str) -> Case:
    with np.load(folder / f"{name}.npz") as stored:
        return Case(
            _TASKS[name],
            (folder / f"{name}_float.tflite").read_bytes(),
            (folder / f"{name}_tensorflow.tflite").read_bytes(),
            ArraySamples("calibration", [stored["calibration"]], None),
            stored["evaluation"],
            stored["labels"],
        )


def _figures(name: str, case: Case, seeds: int) -> dict[str, Any]:
    found = {
        "task": case.task,
        **_faithfulness(case),
        "budgets": [_searched(case, drop, seed=0) for drop in _DROPS],
        "draws": _honesty(case, seeds),
    }
    sizes = [one["model_bytes"] for one in found["budgets"] if one["found"]]
    found["looser_is_never_larger"] = sizes == sorted(sizes, reverse=True)
    print(name, found, flush=True)
    return found


def _faithfulness(case: Case) -> dict[str, Any]:
    samples = case.evaluation(np.arange(_COMPARED))
    before = _raw_answers(case.float_model, samples)
    ours = quantize(case.float_model, Recipe(precision="int8"), case.calibration, _AS_IT_IS).data
    figures = {}
    for who, model in (("edgefleet", ours), ("tensorflow", case.tensorflow)):
        answers = _raw_answers(model, samples)
        figures[who] = {"model_bytes": len(model), "mean_abs_delta": float(np.abs(answers - before).mean())}
        if case.task == "classification":
            figures[who]["agreement"] = float((answers.argmax(axis=1) == before.argmax(axis=1)).mean())
    ratio = figures["edgefleet"]["mean_abs_delta"] / figures["tensorflow"]["mean_abs_delta"]
    return {"mean_abs_delta_ratio": round(ratio, 3), **figures}


def _searched(case: Case, drop: float, *, seed: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(case.x))
    started = time.monotonic()
    result = find_recipe(
        SearchRequest(
            model=case.float_model,
            start=Recipe(precision="int8"),
            budgets=SearchBudgets(drop=drop),
            precisions=_PRECISIONS,
            samples=split_samples(case.calibration, case.evaluation(order[:_EVALUATED])),
            preprocessing=_AS_IT_IS,
            task=case.task,
            metric=default_metric(case.task),
            clock=time.monotonic,
            limit_s=60.0,
        )
    )
    took_s = time.monotonic() - started
    return {"allowed": drop, "took_s": round(took_s, 1), **_verdict(case, result, order[_EVALUATED:][:_UNSEEN])}


def _verdict(case: Case, result: SearchResult, unseen: Any) -> dict[str, Any]:
    chosen = next(one for one in result.candidates if one.chosen)
    others = case.evaluation(unseen)
    metric = default_metric(case.task)
    before, after = (_scored(model, others, case.task) for model in (case.float_model, result.quantized.data))
    compared = compare(metric, before, after, case.labels[unseen], task=case.task)
    return {
        "found": isinstance(result.outcome, Found),
        "hurried": result.outcome.hurried,
        "title": chosen.title,
        "model_bytes": chosen.model_bytes,
        "reported": chosen.drop,
        "interval": [chosen.interval.low, chosen.interval.high],
        "on_unseen": compared.difference * (-1.0 if metric.larger_is_better else 1.0),
    }


def _honesty(case: Case, seeds: int) -> dict[str, Any]:
    drawn = [_searched(case, _REPEATED_DROP, seed=seed) for seed in range(seeds)]
    held = [one["interval"][0] <= one["on_unseen"] <= one["interval"][1] for one in drawn]
    apart = [one["reported"] - one["on_unseen"] for one in drawn]
    return {
        "allowed": _REPEATED_DROP,
        "draws": seeds,
        "interval_holds_the_unseen_drop": sum(held),
        "mean_reported_minus_unseen": float(np.mean(apart)) if apart else None,
    }


def _raw_answers(model: bytes, samples: ArraySamples) -> Any:
    answers = _scored(model, samples, "classification")
    return answers.reshape(len(answers), -1)


def _scored(model: bytes, samples: ArraySamples, task: Task) -> Any:
    interpreter = LiteRtInterpreter(model)
    return predict(interpreter, model_inputs(samples, range(len(samples)), _AS_IT_IS, interpreter.inputs), task)


if __name__ == "__main__":
    main()
