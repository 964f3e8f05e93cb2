# SPDX-License-Identifier: Apache-2.0
"""The budget search: how small, how accurate on unseen pictures, how long; and against ai-edge-quantizer's recipes.

    python -m benchmarks.budget_search [vww] [ic] [ad]

VWW: the smallest model whose drop of accuracy keeps 1.0 point, from 100 pictures to calibrate on, 300 to compare
candidates on and 200 to report on. IC: pictures made from VWW's at 32×32, agreement with the float model instead of
labels; ai-edge-quantizer makes its own recipes from the same calibration pictures with its own ranges, and each is
compared with our smallest candidate that agrees as often on the same unseen pictures. AD: features made up within the
int8 model's input range; the rank correlation and AUC of anomaly scores, float against int8.
"""

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from benchmarks.record import SHARED, skip, write
from converter.adapters.flatbuffers.reading import read_model, with_modern_operator_codes
from converter.adapters.running.execution import predict
from converter.adapters.samples.sets import ArraySamples, SampleSet, model_inputs, open_samples
from converter.core.recipe import Recipe
from converter.core.scoring import area_under_roc, default_metric, top1
from converter.core.search.budgets import Found, SearchBudgets
from converter.sample_parts import Parts, split_samples
from converter.search import SearchRequest, SearchResult, find_recipe
from edgefleet.contracts.manifest import ImagePreprocessing, Precision, Preprocessing, Task
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.preprocessing import preprocess_image

_LIMIT_S = 60.0
_PRECISIONS: tuple[Precision, ...] = ("int8", "int4", "int16x8", "mixed", "float32")
_SMALL = ImagePreprocessing(size=(32, 32))
_BGR = Preprocessing(image=ImagePreprocessing(size=(96, 96), channels="BGR", scale=1 / 255))
_IC_DROPS = (0.05, 0.13)
_ANOMALIES = 100


def main() -> None:
    if not (SHARED / "models" / "vww_float32.tflite").is_file():
        skip(f"no models/vww_float32.tflite in {SHARED} (set EDGEFLEET_SHARED)")
    cases: dict[str, Callable[[], dict[str, Any]]] = {"vww": _vww, "ic": _ic, "ad": _ad}
    wanted = [word for word in sys.argv[1:] if word in cases] or list(cases)
    write("budget_search", {name: cases[name]() for name in wanted})


def _vww() -> dict[str, Any]:
    calibration, evaluation = (
        open_samples(SHARED / "data" / "vww" / name, ["x"]) for name in ("calibration", "evaluation")
    )
    parts = split_samples(calibration, evaluation)
    result, took_s = _searched(
        "vww_float32", parts, _BGR, "classification", SearchBudgets(drop=0.01, model_bytes=245_000)
    )
    chosen = next(one for one in result.candidates if one.chosen)
    return {
        **_verdict(result, took_s),
        "baseline": "245,000 bytes, at most 1.0 point, at most 60 s; stretch 210,000 bytes",
        "size_ratio_to_245kB": chosen.model_bytes / 245_000,
        "size_ratio_to_210kB": chosen.model_bytes / 210_000,
    }


def _ic() -> dict[str, Any]:
    calibration, pictures = (_small_pictures(name) for name in ("calibration", "evaluation"))
    parts = split_samples(calibration, pictures)
    runs = [
        _searched("ic_resnet8_float32", parts, Preprocessing(), "classification", SearchBudgets(drop=drop))
        for drop in _IC_DROPS
    ]
    ours = [(one.model_bytes, 1.0 - one.drop) for result, _ in runs for one in result.candidates]
    return {
        "searches": [
            {"allowed_points": 100.0 * drop, **_verdict(*run)} for drop, run in zip(_IC_DROPS, runs, strict=True)
        ],
        "baseline": "ai-edge-quantizer 0.10.0: its recipes and its own calibration, on the same pictures",
        "ai_edge_quantizer": [
            {**their, **_smallest_at(ours, their["agreement"], their["model_bytes"])}
            for their in _quantizers_own("ic_resnet8_float32", parts)
        ],
    }


def _ad() -> dict[str, Any]:
    calibration, normal = _features(1, 100), _features(2, 200)
    anomalous = normal[:_ANOMALIES] + np.random.default_rng(3).normal(0.0, 6.0, (_ANOMALIES, 640)).astype(np.float32)
    labels = np.repeat([0, 1], [200, _ANOMALIES])
    parts = split_samples(
        ArraySamples("calibration", [calibration], None),
        ArraySamples("made up", [np.concatenate([normal, anomalous])], labels),
    )
    result, took_s = _searched("ad_float32", parts, Preprocessing(), "anomaly", SearchBudgets(drop=0.01))
    scores = [_scores(model, parts.report) for model in (_model("ad_float32"), result.quantized.data)]
    assert parts.report.labels is not None
    aucs = [area_under_roc(one, parts.report.labels) for one in scores]
    ranks = [one.argsort().argsort() for one in scores]
    return {
        **_verdict(result, took_s),
        "rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
        "auc_float": aucs[0],
        "auc": aucs[1],
    }


def _searched(
    model: str, parts: Parts, how: Preprocessing, task: Task, budgets: SearchBudgets
) -> tuple[SearchResult, float]:
    started = time.monotonic()
    result = find_recipe(
        SearchRequest(
            model=_model(model),
            start=Recipe(precision="int8"),
            budgets=budgets,
            precisions=_PRECISIONS,
            samples=parts,
            preprocessing=how,
            task=task,
            metric=default_metric(task),
            clock=time.monotonic,
            limit_s=_LIMIT_S,
        )
    )
    return result, time.monotonic() - started


def _verdict(result: SearchResult, took_s: float) -> dict[str, Any]:
    refusal = result.refusal()
    chosen = next(one for one in result.candidates if one.chosen)
    return {
        "found": isinstance(result.outcome, Found),
        "refusal": None if refusal is None else refusal.message,
        "title": chosen.title,
        "model_bytes": chosen.model_bytes,
        "drop_on_unseen_points": 100.0 * chosen.drop,
        "interval_points": [100.0 * chosen.interval.low, 100.0 * chosen.interval.high],
        "measurements": result.measurements,
        "took_s": took_s,
        "candidates": [
            {
                "title": one.title,
                "model_bytes": one.model_bytes,
                "drop_points": 100.0 * one.drop,
                "on_front": one.on_front,
            }
            for one in result.candidates
        ],
    }


def _quantizers_own(name: str, parts: Parts) -> list[dict[str, Any]]:
    """Return what ai-edge-quantizer makes by itself: size, and agreement with float on the report's pictures."""
    from ai_edge_quantizer import quantizer, recipe

    model = _with_signature(_model(name))
    samples = [{"x": parts.calibration.raw(number)[0][np.newaxis]} for number in range(len(parts.calibration))]
    wanted = top1(_answers(model, parts.report))
    made = []
    for title, chosen in (
        ("static int8", recipe.static_wi8_ai8()),
        ("static int16x8", recipe.static_wi8_ai16()),
        ("dynamic int8", recipe.dynamic_wi8_afp32()),
        ("dynamic int4", recipe.dynamic_wi4_afp32()),
        ("weight-only int8", recipe.weight_only_wi8_afp32()),
        ("weight-only int4", recipe.weight_only_wi4_afp32()),
    ):
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            worker = quantizer.Quantizer(model, chosen)
            found = worker.calibrate({"serve": samples}) if worker.need_calibration else None
            data = bytes(worker.quantize(found).quantized_model)
        agreement = float((top1(_answers(data, parts.report)) == wanted).mean())
        made.append({"recipe": title, "model_bytes": len(data), "agreement": agreement})
    return made


def _with_signature(model: bytes) -> bytes:
    """Return the model with the signature that ai-edge-quantizer calibrates by; old files have none."""
    tree = read_model(with_modern_operator_codes(model))
    graph, signature = tree.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serve", 0
    for name, numbers in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = {"inputs": b"x", "outputs": b"y"}[name], int(numbers[0])
        setattr(signature, name, [entry])
    tree.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


def _smallest_at(ours: list[tuple[int, float]], agreement: float, size: int) -> dict[str, Any]:
    fitting = [(ours_bytes, ours_agreement) for ours_bytes, ours_agreement in ours if ours_agreement >= agreement]
    if not fitting:
        return {"ours_bytes": None}
    best, at = min(fitting)
    return {"ours_bytes": best, "ours_agreement": at, "size_ratio": best / size}


def _answers(model: bytes, samples: SampleSet) -> Any:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    inputs = model_inputs(samples, range(len(samples)), Preprocessing(), interpreter.inputs)
    return predict(interpreter, inputs, "classification")


def _scores(model: bytes, samples: SampleSet) -> Any:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    return predict(
        interpreter, model_inputs(samples, range(len(samples)), Preprocessing(), interpreter.inputs), "anomaly"
    )


def _small_pictures(name: str) -> ArraySamples:
    folder = open_samples(SHARED / "data" / "vww" / name, ["x"])
    return ArraySamples(
        name, [np.stack([preprocess_image(folder.raw(n)[0], _SMALL) for n in range(len(folder))])], None
    )


def _features(seed: int, count: int) -> Any:
    """Return smooth spectra with noise, five frames of 128 each, over the range of the int8 model's input."""
    spec = LiteRtInterpreter(_model("ad_int8")).inputs[0]
    assert spec.scale is not None
    assert spec.zero_point is not None
    low, high = (spec.scale * (edge - spec.zero_point) for edge in (-128, 127))
    chance = np.random.default_rng(seed)
    at, knots = np.linspace(0.0, 1.0, 128), np.linspace(0.0, 1.0, 12)
    spectra = np.stack([np.interp(at, knots, chance.normal(0.5, 0.12, 12)) for _ in range(count)])
    frames = spectra[:, np.newaxis, :] + chance.normal(0.0, 0.04, (count, 5, 128))
    return (low + (high - low) * np.clip(frames, 0.0, 1.0)).reshape(count, 640).astype(np.float32)


def _model(name: str) -> bytes:
    return (SHARED / "models" / f"{name}.tflite").read_bytes()


if __name__ == "__main__":
    main()
