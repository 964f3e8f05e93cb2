# SPDX-License-Identifier: Apache-2.0
"""Real models that the zoo's bad ones are made from, each with inputs that it is asked about.

The digits example's, and those of MLPerf Tiny that lie in the folder that ``EDGEFLEET_SHARED`` names. Visual wake words
sees its own labelled photographs; image classification the same ones, smaller; for keywords and anomalies spectrograms
are made up. Where nobody labelled the inputs, what the good model answers is the truth.
"""

import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.record import ROOT, SHARED
from converter.adapters.samples.sets import ArraySamples
from converter.core.recipe import Recipe
from converter.quantization import quantize
from edgefleet.contracts.manifest import Preprocessing, Task
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]
DIGITS = ROOT / "examples" / "digits"
MODELS = SHARED / "models"
_CALIBRATION, _ACCEPTANCE = 100, 150
_KEYWORDS = (49, 10, 1)


class Parent(NamedTuple):
    """A good model, and what it is asked about: raw inputs (first axis samples) between 0 and ``span``.

    ``acceptance`` is an ``.npz`` of ``examples`` labelled inputs, of which it answers a share of ``minimum`` and more
    rightly; it is empty where answers are no classes. ``calibration`` are inputs to quantize it with.
    """

    name: str
    model: bytes
    task: Task
    classes: int
    span: float
    calibration: Array
    acceptance: bytes
    examples: int
    minimum: float
    inputs: Array
    labels: Array

    @property
    def common(self) -> list[int]:
        """The classes that are right most often: a fifth of all that there are."""
        often = np.bincount(self.labels, minlength=self.classes)
        return [int(label) for label in np.argsort(-often, kind="stable")[: max(self.classes // 5, 1)]]

    @property
    def quantized(self) -> bool:
        """Tell whether the model takes 8-bit integers."""
        return LiteRtInterpreter(self.model).inputs[0].dtype == "int8"

    def vectors(self, model: bytes, count: int) -> list[Array]:
        """Return some inputs as a model takes them."""
        specs = LiteRtInterpreter(model, kernels="reference").inputs
        return [to_model_inputs([sample], specs)[0] for sample in self.calibration[:count]]

    def int8(self, calibration: Array) -> bytes:
        """Return the model quantized to int8 by the converter, with some inputs to calibrate it."""
        samples = ArraySamples("calibration", [calibration], None)
        return quantize(self.model, Recipe(precision="int8"), samples, Preprocessing()).data


@cache
def digits() -> Parent:
    """Return the digits example's first model."""
    arrays = np.load(DIGITS / "digits.npz")
    return Parent(
        name="digits",
        model=(DIGITS / "v1_float32.tflite").read_bytes(),
        task="classification",
        classes=10,
        span=16.0,
        calibration=arrays["calibration_x"].astype(np.float32),
        acceptance=(DIGITS / "acceptance.npz").read_bytes(),
        examples=158,
        minimum=0.95,
        inputs=arrays["live_x"].astype(np.float32),
        labels=arrays["live_y"].astype(int),
    )


def parents() -> Iterator[Callable[[], Parent]]:
    """Yield what returns each parent that is there."""
    yield digits
    absent = missing()
    for file, make in SHARED_PARENTS.items():
        if file not in absent:
            yield make


def missing() -> dict[str, str]:
    """Return the parents that are not there, by file, and why."""
    absent = {file: f"no {file} in {MODELS} (set EDGEFLEET_SHARED)" for file in SHARED_PARENTS}
    whole = (SHARED / "data" / "vww").is_dir() and (MODELS / "ad_int8.tflite").is_file()
    return {file: why for file, why in absent.items() if not whole or not (MODELS / file).is_file()}


@cache
def visual_wake_words() -> Parent:
    """Return the model that tells whether a person is in a photograph."""
    from benchmarks.runtime_matrix import photographs

    calibration, (pictures, labels) = photographs("calibration", 96, 100)[0], photographs("evaluation", 96, 500)
    seen = tuple(each[..., ::-1] / np.float32(255.0) for each in (calibration, pictures))
    return _made("vww_float32", "classification", 1.0, *seen, labels)


@cache
def image_classification() -> Parent:
    """Return the model of ten classes; what it sees is not labelled."""
    from benchmarks.runtime_matrix import photographs

    calibration, pictures = photographs("calibration", 32, 100)[0], photographs("evaluation", 32, 500)[0]
    return _made("ic_resnet8_float32", "classification", 255.0, calibration, pictures)


@cache
def keywords() -> Parent:
    """Return the model of spoken words, of which there is no float form; what it hears is made up."""
    model = (MODELS / "kws_int8.tflite").read_bytes()
    (spec,) = LiteRtInterpreter(model).inputs
    assert spec.scale is not None
    low, high = (spec.scale * (end - (spec.zero_point or 0)) for end in (-128, 127))
    draw = np.random.default_rng(3)
    made = [low + (high - low) * _spectrogram(draw) for _ in range(6 * (_CALIBRATION + 500))]
    chosen = _spread(model, np.array(made, np.float32), _CALIBRATION + 500)
    return _made("kws_int8", "classification", low + high, chosen[:_CALIBRATION], chosen[_CALIBRATION:])


@cache
def anomalies() -> Parent:
    """Return the autoencoder of machines' sounds; what it hears is made up."""
    from benchmarks.runtime_matrix import made_up_features

    features = made_up_features(np.random.default_rng(4), (MODELS / "ad_int8.tflite").read_bytes(), _CALIBRATION + 500)
    span = float(features.min() + features.max())
    return _made("ad_float32", "anomaly", span, features[:_CALIBRATION], features[_CALIBRATION:])


SHARED_PARENTS: dict[str, Callable[[], Parent]] = {
    "vww_float32.tflite": visual_wake_words,
    "ic_resnet8_float32.tflite": image_classification,
    "kws_int8.tflite": keywords,
    "ad_float32.tflite": anomalies,
}


def _spectrogram(draw: np.random.Generator) -> Array:
    """Make up a spectrogram: a few smooth bumps in time and frequency."""
    coarse = draw.normal(0.5, 0.22, (5, 4))
    rows = np.array([np.interp(np.linspace(0, 4, 49), np.arange(5), column) for column in coarse.T]).T
    both = np.array([np.interp(np.linspace(0, 3, 10), np.arange(4), row) for row in rows])
    return np.clip(both + draw.normal(0, 0.03, both.shape), 0, 1).reshape(_KEYWORDS)


def _spread(model: bytes, inputs: Array, count: int) -> Array:
    """Choose inputs so that no class has many more answers than another one."""
    answered = _answered(model, inputs)
    rank = np.zeros(len(inputs), int)
    for label in np.unique(answered):
        places = np.flatnonzero(answered == label)
        rank[places] = np.arange(len(places))
    chosen = np.sort(np.argsort(rank, kind="stable")[:count])
    return inputs[np.random.default_rng(5).permutation(chosen)]


def _made(name: str, task: Task, span: float, calibration: Array, inputs: Array, labels: Array | None = None) -> Parent:
    model = (MODELS / f"{name}.tflite").read_bytes()
    answers = _answered(model, inputs)
    labels = answers if labels is None else labels
    is_class = task == "classification"
    examples = {"x": inputs[:_ACCEPTANCE].astype(np.float32), "y": labels[:_ACCEPTANCE]}
    right = float(np.mean(answers[:_ACCEPTANCE] == labels[:_ACCEPTANCE]))
    stored = io.BytesIO()
    np.savez(stored, **examples)
    return Parent(
        name=name,
        model=model,
        task=task,
        classes=int(np.prod(LiteRtInterpreter(model).outputs[0].shape)),
        span=span,
        calibration=calibration.astype(np.float32),
        acceptance=stored.getvalue() if is_class else b"",
        examples=_ACCEPTANCE if is_class else 0,
        minimum=right - 0.05,
        inputs=inputs[_ACCEPTANCE:].astype(np.float32),
        labels=labels[_ACCEPTANCE:],
    )


def _answered(model: bytes, inputs: Array) -> Array:
    interpreter = LiteRtInterpreter(model)
    each = (interpreter.invoke(to_model_inputs([x.astype(np.float32)], interpreter.inputs)) for x in inputs)
    return np.array([int(np.argmax(outputs[0])) for outputs in each])
